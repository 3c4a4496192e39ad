// Which page stands at which path. A new page: a component in pages/, and a line here.
import type { Component } from 'svelte'
import { decoded } from './address'

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

const FILES = ['/results', '/coders/:coder', '/coders/:coder/latents/:latent', '/lists/:list', '/compare']

/** Whether the page at an address can be had as one file. */
export function asFile(path: string, query: URLSearchParams): boolean {
  const fits = FILES.some((pattern) => match(pattern, path))
  return fits && (!match('/compare', path) || !!(query.get('a') && query.get('b')))
}

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
    const said = decoded(got[i]!)
    if (said === null) return null
    if (word.startsWith(':')) found[word.slice(1)] = said
    else if (word !== said) return null
  }
  return found
}
