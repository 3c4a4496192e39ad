import { expect, test } from 'vitest'
import { csv, wrapped } from '../lib/save'
import { sorted } from '../lib/Table.svelte'
import { athome, differing, drawn, fronts, joined, lines, options, read, rules, shownSettings, split, spots, told, trait, type Coder, type Explored, type Setting, type Spot } from './explore'
import { looks } from './looks'
import { matchedOf } from './matched'

const coder = (name: string, more: Partial<Coder> = {}): Coder => ({
  name, hash: name, architecture: 'topk', baseline: false, colour: 0, model: 'm', site: 'resid_post.1', layer: 1, d_sae: 64, tokens: null, seed: 0,
  origin: null, release: null, stored: true, l0: null, sweep: 'topk', course: null, ...more,
})
const setting = (hex: string, more: Partial<Setting> = {}): Setting => ({
  hex, eval: 'core', version: 1, config: { tokens: 1 }, inputs: { text: 't' }, model: 'm', site: 'resid_post.1', origin: null, coders: 1, made: '', chosen: true, ...more,
})
const axis = { unit: '', doc: '', log: false, format: 'plain' as const, reference: null }
const l0 = (value: number) => ({ value, low: null, high: null, n: 0 })

/** a and b in setting s1, a again in the older s0; p is published, in a setting of its own; base is a baseline. */
const ALL: Explored = {
  facts: [{ ...axis, key: 'l0', label: 'L0', better: 'lower', log: true }, { ...axis, key: 'd_sae', label: 'width', better: 'neither' }],
  coders: [
    coder('a', { l0: l0(10) }),
    coder('b', { l0: l0(40), d_sae: 128, sweep: 'wide' }),
    coder('p', { l0: l0(20), origin: 'SAEBench', release: 'r', sweep: 'r', stored: false }),
    coder('base', { l0: l0(30), architecture: 'pca', baseline: true, colour: null, sweep: 'pca' }),
    coder('c', { l0: l0(20) }),
  ],
  settings: [setting('aaaa0000', { chosen: false, config: { tokens: 9 } }), setting('bbbb1111'), setting('cccc2222', { origin: 'SAEBench' })],
  evals: [
    {
      name: 'core', summary: '', coders: [0, 0, 1, 2, 3, 4], settings: [0, 1, 1, 2, 1, 1], finer: [],
      quantities: [
        { ...axis, key: 'core/fvu', label: 'FVU', better: 'lower', value: [0.9, 0.3, 0.1, 0.2, 0.5, 0.25], low: [], high: [], n: [], levels: { bbbb1111: { value: 0.05, low: null, high: null, n: 0 } } },
        { ...axis, key: 'core/mse', label: 'MSE', better: 'lower', value: [null, 0, 2, null, 3, 1], low: [], high: [], n: [], levels: {} },
      ],
    },
  ],
  presets: [{ eval: 'core', label: 'FVU', x: 'l0', y: 'core/fvu' }],
  home: ['m', 'resid_post.1'],
  palette: [],
}
const at = (text: string) => {
  const query = new URLSearchParams(text)
  const choice = read(query, ALL, new Map())
  const settings = shownSettings(ALL, choice.settings)
  const found = spots(ALL, choice, settings, new Map())
  return { choice: athome(choice, found, ALL, query), settings, found }
}
const names = (found: Spot[]) => found.map((s) => s.coder.name)
const cells = (found: Spot[]) => found.map((s) => [s.coder.name, s.x.value, s.y.value])

test('the address says everything, and what it does not say is as figures have it', () => {
  const plain = at('').choice
  expect([plain.x, plain.y, plain.logx, plain.logy, plain.lines, plain.front]).toEqual(['l0', 'core/fvu', true, false, true, false])
  expect(plain.filters).toEqual({ model: ['m'], site: ['resid_post.1'] })
  expect(at('model=*').choice.filters).toEqual({})
  expect(at('site=x').choice.filters).toEqual({ site: ['x'] })
  const other = at('x=d_sae&y=core/mse&logx=1&at=32&front=1&lines=0&spread=bands&baselines=none&colour=width&architecture=a,b').choice
  expect([other.x, other.y, other.logx, other.at, other.front, other.lines, other.spread, other.baselines, other.colour.key]).toEqual(
    ['d_sae', 'core/mse', true, 32, true, false, 'bands', 'none', 'width'])
  expect(other.filters.architecture).toEqual(['a', 'b'])
  expect([at('at=-3').choice.at, at('at=no').choice.at]).toEqual([null, null])
  expect(split(joined(['a,b', 'c']))).toEqual(['a,b', 'c'])
})

test('of each eval, model, site and maker one setting is shown, so each coder is there once', () => {
  expect(cells(at('').found)).toEqual([['a', 10, 0.3], ['b', 40, 0.1], ['p', 20, 0.2], ['base', 30, 0.5], ['c', 20, 0.25]])
  expect(cells(at('setting=aaaa0000').found)).toEqual([['a', 10, 0.9], ['p', 20, 0.2]])
  expect([...at('setting=zzzz').settings]).toEqual([1, 2])
})

test('settings in words', () => {
  expect(differing(ALL.settings.slice(0, 2))).toEqual(['tokens'])
  expect(told(ALL.settings[0]!, ALL.settings.slice(0, 2))).toBe('version 1, tokens 9')
})

test('filters leave out, and count what each value would give', () => {
  const { found, choice } = at('width=64&release=r')
  expect(names(drawn(found, choice).kept)).toEqual(['p'])
  expect(options(found, choice.filters, trait('width')).map((o) => [o.value, o.n, o.of, o.on])).toEqual([['64', 1, 4, true], ['128', 0, 1, false]])
  expect(names(drawn(found, { ...choice, filters: {}, baselines: 'none' }).kept)).toEqual(['a', 'b', 'p', 'c'])
  const zero = at('y=core/mse&logy=1')
  expect(drawn(zero.found, zero.choice)).toMatchObject({ outside: 1 })
})

test('lines run along sweeps in the order of L0, seeds by their means, never between settings', () => {
  const { found } = at('')
  const [first] = lines(found, 'l0')
  expect(first!.knots.map((k) => [k.x, k.y])).toEqual([[10, 0.3], [20, 0.25]])
  expect(lines(found, 'l0').length).toBe(4)
  const seed = { ...found[0]!, x: l0(10.1), y: l0(0.5), coder: coder('a2', { l0: l0(10.1) }) }
  expect(lines([...found, seed], 'l0')[0]!.knots[0]).toMatchObject({ x: 10.05, y: 0.4 })
  expect(lines([...found, { ...seed, sy: 0 }], 'l0').length).toBe(5)
  expect(lines(found, 'd_sae')).toEqual([])
})

test('fronts hold what none of the same settings beats', () => {
  const { found } = at('')
  const [x, y] = [ALL.facts[0]!, ALL.evals[0]!.quantities[0]!]
  expect(fronts(found, x, y).map(names)).toEqual([['a', 'c', 'b'], ['p']])
  expect(fronts(found, ALL.facts[1]!, y)).toEqual([])
})

test('rules: levels of the shown setting, and baselines where they are asked for as such', () => {
  const { found, choice, settings } = at('baselines=rules')
  const y = ALL.evals[0]!.quantities[0]!
  expect(rules(ALL, found, choice, settings, y).map((r) => [r.label, r.value.value])).toEqual([['activations themselves', 0.05], ['pca', 0.5]])
  expect(rules(ALL, found, { ...choice, baselines: 'marks' }, settings, y).length).toBe(1)
  expect(names(drawn(found, choice).kept)).not.toContain('base')
})

test('a value looks the same whatever is filtered, and baselines are grey', () => {
  const look = looks(ALL, trait('width'), null)
  expect(look.colours.map((e) => e.text)).toEqual(['64', '128'])
  expect(look.of(ALL.coders[1]!).colour).toBe('var(--s6)')
  expect(look.of(ALL.coders[3]!).colour).toBe('var(--muted)')
  expect(looks(ALL, trait('architecture'), null).of(ALL.coders[0]!).colour).toBe('var(--c0)')
})

test('sweeps at a matched L0 stand best first', () => {
  const value = (v: number) => ({ value: v, low: null, high: null, n: 0 })
  const given = [{ sweep: 'topk', setting: 's', coders: 2, value: value(0.3) }, { sweep: 'wide', setting: 's', coders: 1, value: value(0.1) }, { sweep: 'gone', setting: 's', coders: 1, value: value(0) }]
  expect(matchedOf(ALL, given, {}, 'lower').map((m) => m.coder.name)).toEqual(['b', 'a'])
  expect(matchedOf(ALL, given, { width: ['64'] }, 'lower').map((m) => m.coder.name)).toEqual(['a'])
})

test('tables are sorted with what is missing last, and CSV keeps commas and quotes', () => {
  const columns = [{ key: 'v', label: 'v', value: (r: { v: number | null }) => r.v }]
  const rows = [{ v: 2 }, { v: null }, { v: 10 }]
  expect(sorted(rows, columns, 'v').map((r) => r.v)).toEqual([2, 10, null])
  expect(sorted(rows, columns, '-v').map((r) => r.v)).toEqual([10, 2, null])
  expect(wrapped('one two three', 7)).toEqual(['one two', 'three'])
  expect(csv(['a', 'b'], [['x,y', 'say "no"'], [null, 0.1]])).toBe('a,b\n"x,y","say ""no"""\n,0.1\n')
})
