// Which trainings are chosen, and how their lines look.
import type { Schemas } from '../api'
import { count, grouped, split } from './explore'
import { ramp } from './looks'

export type Training = Schemas['TrainingLine']
export interface Chosen {
  /** Trainings on the same vectors, of which some are shown. */
  among: Training[]
  coders: Training[]
  /** Columns, as the address has them; null for what is shown unless somebody wishes otherwise. */
  columns: string[] | null
  logs: string[]
}
const FIRST = 12 // trainings that are shown where the address names none
export const MOST = 24 // as many as the server draws at once

/** Coders of each set of vectors, the largest set first. */
export const sets = (all: readonly Training[]): Training[][] =>
  [...grouped(all, (t) => t.vectors).values()].sort((a, b) => b.length - a.length)

export function chosen(query: URLSearchParams, all: readonly Training[]): Chosen {
  const wanted = split(query.get('coders'))
  const every = sets(all)
  const vectors = query.get('vectors') ?? all.find((t) => wanted.includes(t.name))?.vectors
  const among = every.find((set) => set[0]!.vectors === vectors) ?? every[0] ?? []
  const named = among.filter((t) => wanted.includes(t.name))
  return {
    among,
    coders: (named.length ? named : among).slice(0, named.length ? MOST : FIRST),
    columns: query.get('columns') ? split(query.get('columns')) : null,
    logs: split(query.get('log')),
  }
}

/** What a set of vectors is called. */
export const called = (set: readonly Training[]): string =>
  `${set[0]!.model ?? '–'}, ${set[0]!.site ?? '–'}: ${set.length} ${set.length === 1 ? 'coder' : 'coders'}`

const DASHES = [undefined, '6,3', '2,3', '8,3,2,3', '12,4', '1,2']

/** An architecture's colour; coders of one architecture by dashes. */
export function style(coder: Training, among: readonly Training[]): { stroke: string; dash: string | undefined } {
  const alike = among.filter((t) => t.architecture === coder.architecture)
  return { stroke: ramp(coder.colour), dash: DASHES[alike.indexOf(coder) % DASHES.length] }
}

/** In what a coder differs from the others of its architecture, in few words. */
export function apart(coder: Training, among: readonly Training[]): string {
  const alike = among.filter((t) => t.architecture === coder.architecture)
  const names = Object.keys(coder.settings).filter((k) => new Set(alike.map((t) => JSON.stringify(t.settings[k]))).size > 1)
  return [...names.map((k) => `${k} ${String(coder.settings[k])}`), `${count(coder.tokens)} tokens`].join(', ')
}
