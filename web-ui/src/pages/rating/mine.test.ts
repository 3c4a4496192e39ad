import { expect, test } from 'vitest'
import { unrated } from './mine'

test('the next item to rate is the first unrated one, round the end', () => {
  const both = { consistency: 3, complexity: 2 }
  expect(unrated({}, 2, 4, 1)).toBe(1)
  expect(unrated({ 2: both, 3: { consistency: 1 } }, 2, 4, 2)).toBe(3)
  expect(unrated({ 2: both, 3: both, 4: both }, 2, 4, 2)).toBe(1)
  expect(unrated({ 1: both, 2: both }, 2, 2, 1)).toBeNull()
})
