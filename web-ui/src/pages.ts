// Which page stands at which path. A new page: a component in pages/, and a line here.
import type { Component } from 'svelte'

type Parameters = Record<string, string>
type Page = Component<any> // eslint-disable-line

const PAGES: [string, () => Promise<{ default: Page }>][] = [
  ['/', () => import('./pages/Overview.svelte')],
  ['/results', () => import('./pages/Results.svelte')],
  ['/training', () => import('./pages/Training.svelte')],
  ['/coders', () => import('./pages/Coders.svelte')],
  ['/coders/:coder', () => import('./pages/Coder.svelte')],
  ['/coders/:coder/latents/:latent', () => import('./pages/Latent.svelte')],
  ['/lists', () => import('./pages/Lists.svelte')],
  ['/lists/:list', () => import('./pages/List.svelte')],
  ['/live', () => import('./pages/Live.svelte')],
  ['/compare', () => import('./pages/Compare.svelte')],
  ['/ratings', () => import('./pages/Ratings.svelte')],
  ['/ratings/:sheet', () => import('./pages/Rating.svelte')],
]

/** The page of a path and what its `:names` stand for, or null. */
export function find(path: string): { load: () => Promise<{ default: Page }>; parameters: Parameters } | null {
  for (const [pattern, load] of PAGES) {
    const parameters = match(pattern, path)
    if (parameters) return { load, parameters }
  }
  return null
}

export function match(pattern: string, path: string): Parameters | null {
  const expected = pattern.split('/')
  const got = path.replace(/(.)\/$/, '$1').split('/')
  if (expected.length !== got.length) return null
  const found: Parameters = {}
  for (const [i, word] of expected.entries()) {
    if (word.startsWith(':')) found[word.slice(1)] = decodeURIComponent(got[i]!)
    else if (word !== got[i]) return null
  }
  return found
}
