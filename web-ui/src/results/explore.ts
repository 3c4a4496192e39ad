// What a choice shows of all results: which records, which points, lines, fronts, rules. Nothing here touches the page.
import type { Schemas } from '../api'
import { short, width as widthOf } from '../numbers'

export type Explored = Schemas['Explored']
export type Coder = Schemas['ScoredCoder']
export type Setting = Schemas['ScoredSetting']
export type Quantity = Schemas['Quantity']
export type Axis = Schemas['Axis']
export interface Value {
  value: number
  low: number | null
  high: number | null
  n: number | null
}

// ---- what coders differ in -----------------------------------------------------------------------------------------------------

export interface Trait {
  key: string
  label: string
  of: (coder: Coder) => string
  text: (value: string) => string
  /** Values have an order, and so have their colours. */
  ordered: boolean
}
export const HERE = 'this store'
export const NONE = '–'
export const TRAITS: readonly Trait[] = [
  { key: 'architecture', label: 'architecture', of: (c) => c.architecture, text: (v) => v, ordered: false },
  { key: 'width', label: 'width', of: (c) => String(c.d_sae ?? NONE), text: (v) => (v === NONE ? v : widthOf(Number(v))), ordered: true },
  { key: 'model', label: 'model', of: (c) => c.model ?? NONE, text: (v) => v, ordered: false },
  { key: 'site', label: 'site', of: (c) => c.site ?? NONE, text: (v) => v, ordered: true },
  { key: 'release', label: 'from', of: (c) => (c.origin ? (c.release ?? c.origin) : HERE), text: (v) => v, ordered: false },
  { key: 'tokens', label: 'tokens learnt from', of: (c) => String(c.tokens ?? NONE), text: (v) => (v === NONE ? v : count(Number(v))), ordered: true },
]
export const trait = (key: string | null): Trait => TRAITS.find((t) => t.key === key) ?? TRAITS[0]!

/** 1,500,000 → 1.5M. */
export function count(value: number): string {
  const power = Math.max(0, Math.min(Math.floor(Math.log10(value) / 3 + 1e-9), 4))
  return `${Number((value / 1000 ** power).toPrecision(4))}${['', 'k', 'M', 'B', 'T'][power]}`
}

/** A number as its axis writes it. */
export function written(value: number, axis: { format?: string }): string {
  return axis.format === 'width' ? widthOf(value) : axis.format === 'count' ? count(value) : short(value)
}

/** 4k after 512, resid_post.10 after resid_post.9; what is unknown last. */
export const natural = (a: string, b: string): number =>
  Number(a === NONE) - Number(b === NONE) || a.localeCompare(b, 'en', { numeric: true })

// ---- what is chosen ------------------------------------------------------------------------------------------------------------

export type Filters = Record<string, string[]>
export interface Choice {
  x: string
  y: string
  logx: boolean
  logy: boolean
  colour: Trait
  shape: Trait | null
  lines: boolean
  spread: 'whiskers' | 'bands' | 'none'
  baselines: 'marks' | 'rules' | 'none'
  front: boolean
  /** L0 to compare at. */
  at: number | null
  filters: Filters
  /** Hex digits of settings that are shown instead of those marked `chosen`. */
  settings: string[]
}

const among = <T extends string>(value: string | null, known: readonly T[]): T => known.find((k) => k === value) ?? known[0]!
export const split = (text: string | null): string[] => (text ? text.split(',').map((one) => one.replaceAll('%2C', ',')) : [])
export const joined = (values: readonly string[]): string | null => values.map((one) => one.replaceAll(',', '%2C')).join(',') || null
export const ALL = '*'

/** The axis of a key; `finer` holds those that were fetched later. */
export function axisOf(all: Explored, key: string, finer: ReadonlyMap<string, Quantity>): Axis | Quantity | null {
  return all.facts.find((f) => f.key === key) ?? quantityOf(all, key, finer)
}

export function quantityOf(all: Explored, key: string, finer: ReadonlyMap<string, Quantity>): Quantity | null {
  return all.evals.flatMap((e) => e.quantities).find((q) => q.key === key) ?? finer.get(key) ?? null
}

export const evalOf = (key: string): string => (key === 'l0' ? 'core' : key.split('/')[0]!)

/** What the address says; what it does not say is as a figure of the command line has it. */
export function read(query: URLSearchParams, all: Explored, finer: ReadonlyMap<string, Quantity>): Choice {
  const key = (name: string) => (query.get(name) === 'core/l0' ? 'l0' : query.get(name))
  const x = key('x') ?? (key('y') === 'l0' ? 'd_sae' : 'l0')
  const y = key('y') ?? all.presets[0]?.y ?? all.evals[0]?.quantities[0]?.key ?? 'l0'
  const log = (name: string, key: string) => (query.has(name) ? query.get(name) === '1' : (axisOf(all, key, finer)?.log ?? false))
  const filters: Filters = {}
  for (const { key } of TRAITS) if (query.get(key)) filters[key] = split(query.get(key))
  for (const key of Object.keys(filters)) if (filters[key]![0] === ALL) delete filters[key]
  const at = Number(query.get('at'))
  return {
    x,
    y,
    logx: log('logx', x),
    logy: log('logy', y),
    colour: trait(query.get('colour')),
    shape: query.get('shape') ? trait(query.get('shape')) : null,
    lines: query.get('lines') !== '0',
    spread: among(query.get('spread'), ['whiskers', 'bands', 'none']),
    baselines: among(query.get('baselines'), ['marks', 'rules', 'none']),
    front: query.get('front') === '1',
    at: at > 0 && Number.isFinite(at) ? at : null,
    filters,
    settings: split(query.get('setting')),
  }
}

/** Places of the settings that are shown: one for each eval, model, site and maker. */
export function shownSettings(all: Explored, wanted: readonly string[]): Set<number> {
  const best = new Map<string, [rank: number, at: number]>()
  for (const [i, s] of all.settings.entries()) {
    const asked = wanted.findIndex((hex) => hex.length >= 4 && s.hex.startsWith(hex))
    const rank = asked >= 0 ? 2 : s.chosen ? 1 : 0
    if (rank > (best.get(maker(s))?.[0] ?? -1)) best.set(maker(s), [rank, i])
  }
  return new Set([...best.values()].map(([, i]) => i))
}

export const maker = (s: Setting): string => JSON.stringify([s.eval, s.model, s.site, s.origin])

// ---- points --------------------------------------------------------------------------------------------------------------------

export interface Spot {
  coder: Coder
  x: Value
  y: Value
  /** Settings that the two were measured in; null of facts. */
  sx: number | null
  sy: number | null
}

/** All coders that have both quantities in the settings that are shown. */
export function spots(all: Explored, choice: Choice, settings: ReadonlySet<number>, finer: ReadonlyMap<string, Quantity>): Spot[] {
  const [x, y] = [reader(all, choice.x, settings, finer), reader(all, choice.y, settings, finer)]
  const found: Spot[] = []
  for (const [i, coder] of all.coders.entries()) {
    const [across, up] = [x(coder, i), y(coder, i)]
    if (across && up) found.push({ coder, x: across[0], y: up[0], sx: across[1], sy: up[1] })
  }
  return found
}

type Reader = (coder: Coder, place: number) => [Value, number | null] | null

function reader(all: Explored, key: string, settings: ReadonlySet<number>, finer: ReadonlyMap<string, Quantity>): Reader {
  const fact = (value: number | null): ReturnType<Reader> => (value === null ? null : [{ value, low: null, high: null, n: null }, null])
  if (key === 'd_sae') return (c) => fact(c.d_sae)
  if (key === 'tokens') return (c) => fact(c.tokens)
  if (key === 'layer') return (c) => fact(c.layer)
  const table = all.evals.find((e) => e.name === evalOf(key))
  const q = quantityOf(all, key, finer)
  const rows = new Map<number, number>()
  if (table) for (const [row, coder] of table.coders.entries()) if (settings.has(table.settings[row]!)) rows.set(coder, row)
  return (coder, place) => {
    const row = rows.get(place)
    const value = row === undefined ? null : (q?.value?.[row] ?? null)
    if (value !== null) return [{ value, low: q?.low?.[row!] ?? null, high: q?.high?.[row!] ?? null, n: q?.n?.[row!] ?? null }, table!.settings[row!]!]
    return key === 'l0' && coder.l0 ? [coder.l0, null] : null
  }
}

/** Whether a coder passes all filters, that of one trait left out. */
export function passes(coder: Coder, filters: Filters, but: string | null = null): boolean {
  return TRAITS.every((t) => t.key === but || !filters[t.key] || filters[t.key]!.includes(t.of(coder)))
}

/** The choice with the model and site of most coders, where the address names neither, and they have any of the points. */
export function athome(choice: Choice, found: readonly Spot[], all: Explored, query: URLSearchParams): Choice {
  if (query.has('model') || query.has('site') || !all.home) return choice
  const filters = { ...choice.filters, model: [all.home[0] ?? NONE], site: [all.home[1] ?? NONE] }
  return found.some((s) => passes(s.coder, filters)) ? { ...choice, filters } : choice
}

export interface Option {
  value: string
  text: string
  on: boolean
  /** Points with this value that pass the other filters, and all of them. */
  n: number
  of: number
}

/** What can be chosen of a trait. */
export function options(found: readonly Spot[], filters: Filters, t: Trait): Option[] {
  const tally = new Map<string, [number, number]>()
  for (const { coder } of found) {
    const own = tally.get(t.of(coder)) ?? [0, 0]
    tally.set(t.of(coder), [own[0] + Number(passes(coder, filters, t.key)), own[1] + 1])
  }
  for (const value of filters[t.key] ?? []) if (!tally.has(value)) tally.set(value, [0, 0])
  const on = (value: string) => !filters[t.key] || filters[t.key]!.includes(value)
  return [...tally].map(([value, [n, of]]) => ({ value, text: t.text(value), on: on(value), n, of })).sort((a, b) => natural(a.value, b.value))
}

/** The points that are drawn, and how many are left out because a logarithm has no place for them. */
export function drawn(found: readonly Spot[], choice: Choice): { kept: Spot[]; outside: number } {
  const passed = found.filter((s) => passes(s.coder, choice.filters) && (choice.baselines === 'marks' || !s.coder.baseline))
  const kept = passed.filter((s) => (!choice.logx || s.x.value > 0) && (!choice.logy || s.y.value > 0))
  return { kept, outside: passed.length - kept.length }
}

// ---- lines, fronts, rules ------------------------------------------------------------------------------------------------------

export interface Knot {
  x: number
  y: number
  low: number
  high: number
}
export interface Line {
  spots: Spot[]
  knots: Knot[]
}
const SAME = 1.02 // factor between two places that count as one (seeds)

/** Points that differ in sparsity alone, or over tokens in these alone, joined in that order; those of one place (seeds) by their means. */
export function lines(found: readonly Spot[], x: string): Line[] {
  if (x === 'd_sae' || x === 'layer') return []
  const own = (s: Spot) => (x === 'tokens' ? s.coder.course : s.coder.sweep)
  const groups = grouped(found.filter((s) => own(s) !== null), (s) => `${own(s)} ${s.sx ?? ''} ${s.sy ?? ''}`)
  return [...groups.values()].map((group) => ({ spots: group, knots: course(group, x === 'tokens' ? (s) => s.x.value : (s) => s.coder.l0?.value ?? s.x.value) }))
}

function course(group: Spot[], order: (s: Spot) => number): Knot[] {
  const steps: Spot[][] = []
  let last: number | null = null
  for (const s of group.toSorted((a, b) => order(a) - order(b))) {
    if (last === null || order(s) > last * SAME) steps.push([])
    steps.at(-1)!.push(s)
    last = order(s)
  }
  return steps.map((step) => ({
    x: mean(step.map((s) => s.x.value)),
    y: mean(step.map((s) => s.y.value)),
    low: mean(step.map((s) => s.y.low ?? s.y.value)),
    high: mean(step.map((s) => s.y.high ?? s.y.value)),
  }))
}

/** The coders that no other of the same settings beats in both; none where a quantity has no direction. */
export function fronts(found: readonly Spot[], x: Axis, y: Axis): Spot[][] {
  if (x.better === 'neither' || y.better === 'neither' || x.key === y.key) return []
  const cost = (s: Spot) => (x.better === 'lower' ? s.x.value : -s.x.value)
  const gain = (s: Spot) => (y.better === 'higher' ? s.y.value : -s.y.value)
  const groups = grouped(found, (s) => JSON.stringify([s.sx, s.sy, s.coder.model, s.coder.site, s.coder.origin]))
  return [...groups.values()].map((group) => {
    const best: Spot[] = []
    for (const s of group.toSorted((a, b) => cost(a) - cost(b) || gain(b) - gain(a)))
      if (!best.length || gain(s) > gain(best.at(-1)!)) best.push(s)
    return best
  })
}

export interface Rule {
  label: string
  value: Value
}

/** Levels that no coder has part in, and the baselines where they are drawn as rules: the best of each kind. */
export function rules(all: Explored, found: readonly Spot[], choice: Choice, settings: ReadonlySet<number>, y: Axis | Quantity): Rule[] {
  const made: Rule[] = []
  const passed = found.filter((s) => passes(s.coder, choice.filters))
  const used = new Set(passed.map((s) => s.sy))
  const levels = 'levels' in y ? (y.levels ?? {}) : {}
  for (const [i, s] of all.settings.entries())
    if (settings.has(i) && used.has(i) && levels[s.hex]) made.push({ label: 'activations themselves', value: levels[s.hex]! })
  if (choice.baselines === 'rules') {
    const groups = grouped(passed.filter((s) => s.coder.baseline), (s) => s.coder.architecture)
    const sign = y.better === 'lower' ? -1 : 1
    for (const [name, group] of groups) {
      const best = group.reduce((a, b) => (sign * b.y.value > sign * a.y.value ? b : a))
      made.push({ label: group.length > 1 ? `${name}, best of ${group.length}` : name, value: best.y })
    }
  }
  return made.filter((r) => !choice.logy || r.value.value > 0)
}

// ---- settings in words ---------------------------------------------------------------------------------------------------------

/** What a setting says, flat. */
export function facts(s: Setting): Record<string, string> {
  const found: Record<string, string> = { version: String(s.version) }
  for (const [k, v] of Object.entries({ ...s.config, ...s.inputs })) found[k] = typeof v === 'object' ? JSON.stringify(v) : String(v)
  return found
}

/** Names of what some settings differ in. */
export function differing(settings: readonly Setting[]): string[] {
  const each = settings.map(facts)
  const names = new Set(each.flatMap((f) => Object.keys(f)))
  return [...names].filter((name) => new Set(each.map((f) => f[name])).size > 1)
}

/** A setting in few words: those in which it differs from the others, else its tokens. */
export function told(s: Setting, others: readonly Setting[]): string {
  const own = facts(s)
  const names = differing(others).filter((name) => name !== 'version' && own[name] !== undefined).slice(0, 3)
  return [`version ${s.version}`, ...names.map((name) => `${name} ${own[name]!.slice(0, 24)}`)].join(', ')
}

/** Items by a key, in the order in which they come. */
export function grouped<V>(items: readonly V[], key: (item: V) => string): Map<string, V[]> {
  const found = new Map<string, V[]>()
  for (const item of items) {
    const there = found.get(key(item))
    if (there) there.push(item)
    else found.set(key(item), [item])
  }
  return found
}

const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length
