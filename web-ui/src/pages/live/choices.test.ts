import { describe, expect, it } from 'vitest'
import { effects, parting, strengths, tokens, written } from './choices'

describe('effects', () => {
  it('are read as they were written', () => {
    const all = effects('12:add:1.5:max:all;7:clamp:-3:raw:prompt;9:ablate:1:max:generated;1:scale:0:raw:all')
    expect(all.map((e) => e.latent)).toEqual([12, 7, 9, 1])
    expect(all[1]).toEqual({ latent: 7, operation: 'clamp', value: -3, unit: 'raw', positions: 'prompt' })
    expect(effects(written(all))).toEqual(all)
  })
  it('have defaults, and nonsense is left out', () => {
    expect(effects('12')).toEqual([{ latent: 12, operation: 'add', value: 1, unit: 'max', positions: 'all' }])
    expect(effects('x;-1;3:destroy;;4:add:NaN:bits:nowhere')).toEqual([{ latent: 4, operation: 'add', value: 1, unit: 'max', positions: 'all' }])
    expect(effects(null)).toEqual([])
  })
})

describe('the rest', () => {
  it('reads places', () => expect(tokens('3,x,17,-1')).toEqual([3, 17]))
  it('spaces strengths', () => {
    expect(strengths(0, 0.3, 4)).toEqual([0, 0.1, 0.2, 0.3])
    expect(strengths(-2, 2, 5)).toEqual([-2, -1, 0, 1, 2])
    expect(strengths(0, 1, 1000)).toHaveLength(41)
  })
  it('finds where texts part', () => {
    expect(parting(['a', 'b', 'c'], ['a', 'x', 'c'])).toBe(1)
    expect(parting(['a'], ['a', 'b'])).toBeNull()
  })
})
