// Arithmetic of the scatter: axes, colours, drawing 65k points into pixels, finding the nearest one.

export interface Axis {
  log: boolean
  /** Ends, in values. */
  low: number
  high: number
}

/** An axis that holds all values, with a margin. On a logarithmic one only those above 0 count. */
export function axis(values: Float32Array, log: boolean, margin = 0.02): Axis {
  let [low, high] = [Infinity, -Infinity]
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue
    if (value < low) low = value
    if (value > high) high = value
  }
  if (low > high) return { log, low: log ? 0.1 : 0, high: 1 }
  if (low === high) return log ? { log, low: low / 2, high: high * 2 } : { log, low: low - 0.5, high: high + 0.5 }
  if (log) {
    const extra = (high / low) ** margin
    return { log, low: low / extra, high: high * extra }
  }
  const extra = (high - low) * margin
  return { log, low: low - extra, high: high + extra }
}

/** Where a value lies: 0 at the low end, 1 at the high one; NaN where it has no place. */
export function share({ log, low, high }: Axis, value: number): number {
  return log ? (value > 0 ? Math.log(value / low) / Math.log(high / low) : NaN) : (value - low) / (high - low)
}

/** The value at a place: the inverse of `share`. */
export function value({ log, low, high }: Axis, share: number): number {
  return log ? low * (high / low) ** share : low + share * (high - low)
}

/** A few round values along an axis. */
export function ticks({ log, low, high }: Axis, most = 6): number[] {
  const found: number[] = []
  if (log) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)]
    const step = Math.max(1, Math.ceil((last - first + 1) / most))
    for (let power = first; power <= last; power += step) found.push(Number(`1e${power}`))
    if (found.length > 1) return found
    found.length = 0
  }
  const raw = (high - low) / most
  const unit = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw) ?? raw
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(Number(tick.toPrecision(6)))
  return found
}

/** Viridis, at 9 places: evenly bright steps, the same order for the colour-blind and in grey. */
const VIRIDIS = ['440154', '472d7b', '3b528b', '2c728e', '21918c', '28ae80', '5ec962', 'addc30', 'fde725']

/** 256 colours as [red, green, blue] triples; the end that would drown in the ground is left out. */
export function palette(dark: boolean): Uint8Array {
  const [from, to] = dark ? [0.2, 1] : [0, 0.88]
  const found = new Uint8Array(256 * 3)
  for (let i = 0; i < 256; i++) {
    const at = (from + ((to - from) * i) / 255) * (VIRIDIS.length - 1)
    const [k, rest] = [Math.min(VIRIDIS.length - 2, Math.floor(at)), at % 1]
    for (let c = 0; c < 3; c++) {
      const [a, b] = [k, k + 1].map((n) => parseInt(VIRIDIS[n]!.slice(2 * c, 2 * c + 2), 16)) as [number, number]
      found[3 * i + c] = Math.round(a + (b - a) * (k === VIRIDIS.length - 2 && at >= VIRIDIS.length - 1 ? 1 : rest))
    }
  }
  return found
}

/** Places of all points in pixels; NaN where a point has none. */
export function project(values: Float32Array, along: Axis, from: number, to: number): Float32Array {
  const found = new Float32Array(values.length)
  const [offset, span] = along.log ? [Math.log(along.low), Math.log(along.high / along.low)] : [along.low, along.high - along.low]
  const scale = (to - from) / span
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    found[i] = from + ((along.log ? (v > 0 ? Math.log(v) : NaN) : v) - offset) * scale
  }
  return found
}

export interface Points {
  x: Float32Array
  y: Float32Array
  /** Which of the 256 colours; 256: none. */
  shade: Uint16Array
}

export type Colour = [number, number, number]

export interface Look {
  colours: Uint8Array
  /** Of chosen points without a value. */
  plain: Colour
  /** Of points that are not chosen. */
  faint: Colour
  /** Side of a point in pixels. */
  size: number
  alpha: number
}

/** Colour numbers of values along an axis. */
export function shades(values: Float32Array, along: Axis): Uint16Array {
  const found = new Uint16Array(values.length)
  const places = project(values, along, 0, 255)
  for (let i = 0; i < values.length; i++) found[i] = Number.isNaN(places[i]!) ? 256 : Math.max(0, Math.min(255, Math.round(places[i]!)))
  return found
}

/** Is latent i among those that a bit mask (highest bit first) names? */
export function chosen(mask: Uint8Array | null, i: number): boolean {
  return !mask || ((mask[i >> 3]! >> (7 - (i & 7))) & 1) === 1
}

/** Places of a point's pixels, counted from its upper left one: a square, or from 4 pixels on a disc. */
function disc(size: number, width: number): Int32Array {
  const found: number[] = []
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++)
      if (size < 4 || (x + 0.5 - size / 2) ** 2 + (y + 0.5 - size / 2) ** 2 <= (size / 2) ** 2) found.push(y * width + x)
  return Int32Array.from(found)
}

/** Draw the points into RGBA pixels that are transparent before: first what is not chosen, then the others, blended. Returns how many. */
export function draw(pixels: Uint8ClampedArray, width: number, height: number, points: Points, mask: Uint8Array | null, look: Look): number {
  let drawn = 0
  const half = Math.floor(look.size / 2)
  const dots = disc(look.size, width)
  for (const strong of mask ? [false, true] : [true]) {
    const alpha = strong ? look.alpha : look.alpha * 0.35
    for (let i = 0; i < points.x.length; i++) {
      if (mask && chosen(mask, i) !== strong) continue
      const left = Math.round(points.x[i]!) - half
      const top = Math.round(points.y[i]!) - half
      if (!(left >= 0 && top >= 0 && left + look.size <= width && top + look.size <= height)) continue // NaN too
      drawn++
      const shade = points.shade[i]!
      const [colours, from] = !strong ? [look.faint, 0] : shade === 256 ? [look.plain, 0] : [look.colours, 3 * shade]
      const r = colours[from]!
      const g = colours[from + 1]!
      const b = colours[from + 2]!
      const corner = top * width + left
      for (let k = 0; k < dots.length; k++) {
        const at = 4 * (corner + dots[k]!)
        const below = (pixels[at + 3]! / 255) * (1 - alpha)
        const total = alpha + below
        const mine = alpha / total
        const theirs = below / total
        pixels[at] = r * mine + pixels[at]! * theirs
        pixels[at + 1] = g * mine + pixels[at + 1]! * theirs
        pixels[at + 2] = b * mine + pixels[at + 2]! * theirs
        pixels[at + 3] = 255 * total
      }
    }
  }
  return drawn
}

/** The chosen point nearest to a place, within a radius; -1 for none. */
export function nearest(points: Points, mask: Uint8Array | null, x: number, y: number, radius: number): number {
  let [best, least] = [-1, radius * radius]
  for (let i = 0; i < points.x.length; i++) {
    const distance = (points.x[i]! - x) ** 2 + (points.y[i]! - y) ** 2
    if (distance < least && chosen(mask, i)) [best, least] = [i, distance]
  }
  return best
}
