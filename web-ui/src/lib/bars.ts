// Places on an axis of bars that are equally wide on the screen.

/** Where a value lies along the bars with these ends: 0 at the left, 1 at the right; null outside. */
export function along(edges: number[], value: number): number | null {
  const bars = edges.length - 1
  if (bars < 1 || !(value >= edges[0]! && value <= edges[bars]!)) return null
  let i = 0
  while (i < bars - 1 && value >= edges[i + 1]!) i++
  const [low, high] = [edges[i]!, edges[i + 1]!]
  return (i + (high > low ? (value - low) / (high - low) : 0)) / bars
}
