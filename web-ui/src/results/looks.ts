// Colours and shapes of points: the same for a value whatever is filtered, and for architectures the same as in every other figure.
import { natural, type Explored, type Trait, type Coder } from './explore'

export interface Look {
  colour: string
  symbol: Symbol
}
export interface Entry extends Look {
  value: string
  text: string
}
export const SYMBOLS = ['circle', 'square', 'diamond', 'triangle', 'star', 'cross', 'wye'] as const
export type Symbol = (typeof SYMBOLS)[number]
/** Around 0 0, of about equal weight. */
export const SHAPES: Record<Symbol, string> = {
  circle: 'M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z',
  square: 'M-4-4H4V4H-4Z',
  diamond: 'M0-6L3.6 0L0 6L-3.6 0Z',
  triangle: 'M0-5L4.8 3.6H-4.8Z',
  star: 'M0-6L1.5-2L5.7-1.9L2.4.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4.8L-5.7-1.9L-1.5-2Z',
  cross: 'M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z',
  wye: 'M-1.7 5V.9L-5-1.1L-3.3-4L0-2L3.3-4L5-1.1L1.7.9V5Z',
}
export const GREY = 'var(--muted)'
const STEPS = 7

/** From a coder to how it looks, and the entries of the legend. */
export function looks(all: Explored, colour: Trait, shape: Trait | null): { of: (coder: Coder) => Look; colours: Entry[]; shapes: Entry[] } {
  const trained = all.coders.filter((c) => !c.baseline)
  const kinds = (t: Trait) => [...new Set(trained.map(t.of))].sort(natural)
  const colours = kinds(colour).map((value, i, every): Entry => {
    const paint = colour.key === 'architecture' ? ramp(trained.find((c) => c.architecture === value)!.colour ?? 0) : colour.ordered ? step(i, every.length) : ramp(i)
    return { value, text: colour.text(value), colour: paint, symbol: shape ? 'circle' : SYMBOLS[i % SYMBOLS.length]! }
  })
  const shapes = shape ? kinds(shape).map((value, i): Entry => ({ value, text: shape.text(value), colour: GREY, symbol: SYMBOLS[i % SYMBOLS.length]! })) : []
  const [byColour, byShape] = [index(colours), index(shapes)]
  const baselines = [...new Set(all.coders.filter((c) => c.baseline).map((c) => c.architecture))].sort(natural)
  return {
    colours,
    shapes,
    of: (c) => {
      if (c.baseline) return { colour: GREY, symbol: SYMBOLS[baselines.indexOf(c.architecture) % SYMBOLS.length]! }
      const own = byColour.get(colour.of(c))
      return { colour: own?.colour ?? GREY, symbol: (shape ? byShape.get(shape.of(c)) : own)?.symbol ?? 'circle' }
    },
  }
}

const index = (entries: Entry[]): Map<string, Entry> => new Map(entries.map((e) => [e.value, e]))

/** A place in Okabe and Ito's palette (see style of Scatter). */
export const ramp = (place: number): string => `var(--c${place % 7})`

/** A step of values that have an order, dark to light. */
const step = (i: number, of: number): string => `var(--s${of < 2 ? 3 : Math.round((i / (of - 1)) * (STEPS - 1))})`
