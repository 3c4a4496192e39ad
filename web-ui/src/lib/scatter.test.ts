import { expect, test } from 'vitest'
import { along } from './bars'
import { bound, change, format, parse } from './ranges'
import { axis, chosen, draw, nearest, palette, project, shades, share, ticks, value, type Colour, type Points } from './scatter'

const LOOK = { colours: palette(false), plain: [90, 90, 90] as Colour, faint: [200, 200, 200] as Colour, size: 2, alpha: 0.7 }

test('axes hold what can be shown, and give it back', () => {
  const log = axis(new Float32Array([0, 1e-5, 0.1, NaN]), true)
  expect(log.low).toBeLessThan(1e-5)
  expect(log.high).toBeGreaterThan(0.1)
  expect(share(log, 0)).toBeNaN()
  for (const one of [log, axis(new Float32Array([-3, 5]), false)]) expect(value(one, share(one, 0.01))).toBeCloseTo(0.01, 6)
  expect(axis(new Float32Array([NaN]), false)).toEqual({ log: false, low: 0, high: 1 })
  expect(ticks({ log: true, low: 8e-6, high: 0.2 })).toEqual([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
  expect(ticks({ log: false, low: -0.31, high: 0.72 })).toEqual([-0.2, 0, 0.2, 0.4, 0.6])
})

test('a point is drawn where it is, the chosen one above the others', () => {
  const points: Points = { x: new Float32Array([5, 5, NaN]), y: new Float32Array([5, 5, 5]), shade: new Uint16Array([0, 255, 3]) }
  const pixels = new Uint8ClampedArray(10 * 10 * 4)
  expect(draw(pixels, 10, 10, points, null, LOOK)).toBe(2)
  const [red, green] = [LOOK.colours[3 * 255]!, LOOK.colours[3 * 255 + 1]!]
  const at = 4 * (5 * 10 + 5)
  expect(pixels[at + 3]).toBeGreaterThan(200)
  expect(Math.abs(pixels[at]! - red) + Math.abs(pixels[at + 1]! - green)).toBeLessThan(120)
  expect(pixels[4 * (8 * 10 + 8) + 3]).toBe(0)
  const mask = new Uint8Array([0b10000000])
  expect([chosen(mask, 0), chosen(mask, 1)]).toEqual([true, false])
  expect(nearest(points, null, 6, 5, 3)).toBe(0)
  expect(nearest(points, new Uint8Array([0b01000000]), 6, 5, 3)).toBe(1)
  expect(nearest(points, null, 60, 5, 3)).toBe(-1)
})

test('65,536 points are drawn in less than 200 ms', () => {
  const n = 65536
  const spread = (seed: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * seed) + Math.sin(i * seed * 7.3))
  const [x, y] = [spread(12.9898), spread(78.233)]
  const pixels = new Uint8ClampedArray(1400 * 900 * 4)
  const look = { ...LOOK, size: 4 }
  const took = [0, 1, 2].map(() => {
    const start = performance.now()
    const points = { x: project(x, axis(x, false), 0, 1400), y: project(y, axis(y, false), 900, 0), shade: shades(x, axis(x, false)) }
    expect(draw(pixels, 1400, 900, points, null, look)).toBeGreaterThan(n * 0.99)
    return performance.now() - start
  })
  expect(Math.min(...took)).toBeLessThan(200)
})

test('ranges stand in the address and are changed one column at a time', () => {
  const found = parse('density:1e-4:0.01,max:10:')
  expect(found).toEqual([
    { column: 'density', low: 1e-4, high: 0.01 },
    { column: 'max', low: 10, high: null },
  ])
  expect(format(found)).toBe('density:0.0001:0.01,max:10:')
  expect(format(change(found, 'max', null, null))).toBe('density:0.0001:0.01')
  expect(parse(null)).toEqual([])
  expect([bound(0.123456, true), bound(0.123456, false), bound(-2.00001, false)]).toEqual([0.1235, 0.1234, -2.001])
})

test('places along bars of unequal ends', () => {
  expect(along([1, 10, 100], 10)).toBe(0.5)
  expect(along([1, 10, 100], 100)).toBe(1)
  expect(along([1, 10, 100], 101)).toBeNull()
})
