// What sweeps give at a matched L0, beside the coders they belong to.
import type { Schemas } from '../api'
import { passes, type Coder, type Explored, type Filters } from './explore'

export interface Matched {
  /** Any coder of the sweep. */
  coder: Coder
  setting: string
  coders: number
  value: Schemas['Interval']
}

/** The sweeps that pass the filters, best first. */
export function matchedOf(all: Explored, found: readonly Schemas['AtL0'][], filters: Filters, better: string): Matched[] {
  const first = new Map<string, Coder>()
  for (const c of all.coders) if (c.sweep !== null && !first.has(c.sweep)) first.set(c.sweep, c)
  const sign = better === 'lower' ? 1 : -1
  return found
    .flatMap((m) => (first.has(m.sweep) ? [{ coder: first.get(m.sweep)!, setting: m.setting, coders: m.coders, value: m.value }] : []))
    .filter((m) => passes(m.coder, filters))
    .sort((a, b) => sign * (a.value.value - b.value.value))
}
