import { expect, test } from 'vitest'
import { interval, short, width } from './numbers'
import { match } from './pages'

test('numbers as people read them', () => {
  expect([0.93412, 1.23e-5, 12400, 0, null].map(short)).toEqual(['0.934', '1.2e-5', '12,400', '0', '–'])
  expect(interval(0.5, 0.45, 0.55)).toBe('0.5 (0.45 to 0.55)')
  expect(width(16384)).toBe('16k')
})

test('a path finds its page and parameters', () => {
  expect(match('/coders/:coder/latents/:latent', '/coders/a%20b/latents/7')).toEqual({ coder: 'a b', latent: '7' })
  expect(match('/coders/:coder', '/coders')).toBeNull()
})
