// Addresses as text. Nothing here touches the page.

/** What stands behind percent signs; null where that is no text. */
export function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}

/** One name for all ways to write an address: whoever packs answers into a file need not write like a browser. */
export function canonical(url: string): string {
  const { pathname, searchParams } = new URL(url, 'http://page')
  searchParams.sort()
  return `${decoded(pathname) ?? pathname}?${searchParams}`
}

const PAUSE = 1000 // milliseconds after which typing begins anew

/** Typing that goes on: one step back undoes all of it, from its first letter. */
export class Burst {
  #names = ''
  #last = -Infinity

  /** Whether a change of these parameters goes on with the one before. */
  goesOn(names: string, now: number): boolean {
    const on = names === this.#names && now - this.#last < PAUSE
    this.#names = names
    this.#last = now
    return on
  }

  end(): void {
    this.#last = -Infinity
  }
}
