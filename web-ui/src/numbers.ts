// Numbers as people read them.

/** 0.934 · 1.2e-5 · 12,400: about three digits. */
export function short(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-4) return value.toExponential(1)
  if (size >= 1000) return Math.round(value).toLocaleString('en')
  return String(Number(value.toPrecision(3)))
}

/** A share as a percentage. */
export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? '–' : `${short(value * 100)} %`
}

/** 16384 → 16k: a width, where k is 1024. */
export function width(value: number | null | undefined): string {
  if (!value) return '–'
  return value % 1024 === 0 ? `${value / 1024}k` : value.toLocaleString('en')
}

/** 0.934 (0.92 to 0.95). */
export function interval(value: number | null, low?: number | null, high?: number | null): string {
  return low == null || high == null ? short(value) : `${short(value)} (${short(low)} to ${short(high)})`
}
