import { expect, test } from 'vitest'
import { Burst, canonical, decoded } from './address'
import { asFile, find, match } from './pages'

test('an address has one name, however it is written', () => {
  const one = canonical('/coders/a+b/latents.json?where=dense%3A1%3A1%2Cmax%3A2%3A&token=%22+the%22&limit=100')
  expect(canonical('/coders/a%2Bb/latents.json?limit=100&token=%22%20the%22&where=dense:1:1,max:2:')).toBe(one)
  expect(canonical('/coders/a+b/latents.json?where=dense:1:1')).not.toBe(one)
  expect(canonical('/coders/%E0%A4%A.json')).toBe('/coders/%E0%A4%A.json?')
})

test('an address that is no text has no page, and names are decoded once', () => {
  expect(decoded('%E0%A4%A')).toBe(null)
  expect(find('/coders/%E0%A4%A')).toBe(null)
  expect(match('/coders/:coder', '/coders/100%25')).toEqual({ coder: '100%' })
  expect(match('/coders/:coder', '/coders/a%2Fb/')).toEqual({ coder: 'a/b' })
})

test('pages that can be a file', () => {
  const nothing = new URLSearchParams()
  for (const path of ['/results', '/coders/topk', '/coders/topk/latents/7', '/lists/3']) expect(asFile(path, nothing)).toBe(true)
  for (const path of ['/', '/live', '/coders', '/training', '/ratings/x', '/compare', '/nothing', '/lists/%E0%A4%A']) expect(asFile(path, nothing)).toBe(false)
  expect(asFile('/compare', new URLSearchParams('a=topk&b=relu'))).toBe(true)
})

test('typing goes on until a pause, another field, or its end', () => {
  const burst = new Burst()
  expect([0, 300, 1200, 2300].map((now) => burst.goesOn('token', now))).toEqual([false, true, true, false])
  expect(burst.goesOn('label', 2400)).toBe(false)
  burst.end()
  expect(burst.goesOn('label', 2500)).toBe(false)
})
