// What this browser knows of sheets: the name that one rates under, and the keys of sheets that were made here.

export function remembered(name: string): string | null {
  try {
    return localStorage.getItem(`assay-${name}`)
  } catch {
    return null // storage is forbidden: it has to be typed again
  }
}

export function remember(name: string, value: string): void {
  try {
    localStorage.setItem(`assay-${name}`, value)
  } catch {
    // as above
  }
}

/** The item to rate next: the first that is not rated on every scale, from `now` on and round; null when all are. */
export function unrated(ratings: Record<string, Record<string, number>>, scales: number, items: number, now: number): number | null {
  for (let i = 0; i < items; i++) {
    const item = ((now - 1 + i) % items) + 1
    if (Object.keys(ratings[item] ?? {}).length < scales) return item
  }
  return null
}
