import { expect, test } from 'vitest'
import { units, visible } from './pieces'

test('nothing stays unseen, and nothing else changes', () => {
  expect(visible(' a\n\tb')).toBe(' a↵⇥b')
  expect(visible(' a b', true)).toBe('·a·b')
  expect(visible('\u202eevil\u0000')).toBe('⟨202E⟩evil⟨0000⟩')
  expect(visible('<b>日本語 é 👩')).toBe('<b>日本語 é 👩')
})

test('tokens that continue a character join it, with the value furthest from 0', () => {
  expect(units(['a', '日', '', '', 'b'], [0, 1, 3, null, null])).toEqual([
    { from: 0, to: 1, text: 'a', value: 0 },
    { from: 1, to: 4, text: '日', value: 3 },
    { from: 4, to: 5, text: 'b', value: null },
  ])
  expect(units(['', 'x'])[0]).toEqual({ from: 0, to: 1, text: '', value: null })
  expect(units([])).toEqual([])
})
