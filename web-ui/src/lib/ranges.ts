// Filters by range, as they stand in the address: `density:1e-4:0.01,max:10:`.

export interface Range {
  column: string
  low: number | null
  high: number | null
}

export function parse(text: string | null): Range[] {
  return (text ?? '')
    .split(',')
    .filter(Boolean)
    .map((part) => {
      const [column = '', low = '', high = ''] = part.split(':')
      return { column, low: number(low), high: number(high) }
    })
}

export function format(ranges: Range[]): string {
  return ranges.map(({ column, low, high }) => `${column}:${low ?? ''}:${high ?? ''}`).join(',')
}

/** The ranges with one column's changed; without ends it is taken out. */
export function change(ranges: Range[], column: string, low: number | null, high: number | null): Range[] {
  const others = ranges.filter((r) => r.column !== column)
  return low === null && high === null ? others : [...others, { column, low, high }]
}

function number(text: string): number | null {
  return text.trim() === '' || Number.isNaN(Number(text)) ? null : Number(text)
}

/** A bound that people can read, rounded outwards so that nothing at the edge is lost. */
export function bound(value: number, up: boolean): number {
  if (value === 0) return 0
  const step = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3)
  return Number(((up ? Math.ceil(value / step) : Math.floor(value / step)) * step).toPrecision(4))
}
