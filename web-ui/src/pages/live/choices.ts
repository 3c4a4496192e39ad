// What is chosen on the live page, as it stands in the address: short names, defaults left out.
import type { Schemas } from '../../api'

export type Effect = Schemas['Effect']
export type Operation = NonNullable<Effect['operation']>

export const OPERATIONS: [Operation, string][] = [
  ['add', 'add'],
  ['clamp', 'clamp to'],
  ['ablate', 'ablate'],
  ['scale', 'scale by'],
]
export const POSITIONS: [NonNullable<Effect['positions']>, string][] = [
  ['all', 'everywhere'],
  ['prompt', 'in the prompt'],
  ['generated', 'in what is generated'],
]

/** `123:add:1.5:max:all`, one after the other with `;`. What is left out at the end is as usual. */
export function effects(text: string | null): Effect[] {
  const found: Effect[] = []
  for (const part of (text ?? '').split(';')) {
    const [latent, operation = 'add', value, unit, positions] = part.split(':')
    if (!/^\d{1,9}$/.test(latent ?? '') || !OPERATIONS.some(([name]) => name === operation)) continue
    found.push({
      latent: Number(latent),
      operation: operation as Operation,
      value: number(value, 1),
      unit: unit === 'raw' ? 'raw' : 'max',
      positions: positions === 'prompt' || positions === 'generated' ? positions : 'all',
    })
  }
  return found
}

export function written(all: readonly Effect[]): string {
  return all.map((e) => [e.latent, e.operation, e.value, e.unit, e.positions].join(':')).join(';')
}

/** Whether the value of an operation is an activation, and so has a unit. */
export function measured(operation: Operation | undefined): boolean {
  return operation === 'add' || operation === 'clamp'
}

export function number(text: string | null | undefined, otherwise: number): number {
  const found = Number(text)
  return text === null || text === undefined || text.trim() === '' || !Number.isFinite(found) ? otherwise : found
}

/** Places of tokens, `3,4,17`. */
export function tokens(text: string | null): number[] {
  return (text ?? '').split(',').filter((part) => /^\d{1,6}$/.test(part)).map(Number)
}

/** n strengths from low to high, both ends among them, without the noise of floating point. */
export function strengths(low: number, high: number, n: number): number[] {
  const count = Math.max(2, Math.min(41, Math.round(n)))
  return Array.from({ length: count }, (_, i) => Number((low + ((high - low) * i) / (count - 1)).toPrecision(6)))
}

/** Where two continuations part: the place of the first token that differs, or null. */
export function parting(one: readonly string[], other: readonly string[]): number | null {
  const n = Math.min(one.length, other.length)
  for (let i = 0; i < n; i++) if (one[i] !== other[i]) return i
  return null
}
