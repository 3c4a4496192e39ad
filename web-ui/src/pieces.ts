// Tokens as they are shown. The server sends exact text, "" for a token that only continues the character before it.

const NAMED: Record<string, string> = { '\n': '↵', '\r': '↲', '\t': '⇥', '\u00a0': '⍽' }
/** Control characters, and those that would turn the direction of the text around them. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00a0\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g

function named(c: string): string {
  return NAMED[c] ?? `⟨${c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}⟩`
}

/** Text with nothing unseen in it: ↵ for a line break, and with `spaces` · for each space. */
export function visible(text: string, spaces = false): string {
  const shown = text.replace(UNSEEN, named)
  return spaces ? shown.replaceAll(' ', '·') : shown
}

/** What stands together on the screen: a token, and those that only continue its character. */
export interface Unit {
  /** Place of the first token. */
  from: number
  /** One past the last. */
  to: number
  text: string
  /** The value that is furthest from 0; null where none is known. */
  value: number | null
}

export function units(pieces: readonly string[], values?: readonly (number | null)[]): Unit[] {
  const found: Unit[] = []
  for (const [i, text] of pieces.entries()) {
    const value = values?.[i] ?? null
    const last = found.at(-1)
    if (text === '' && last) {
      last.to = i + 1
      if (value !== null && (last.value === null || Math.abs(value) > Math.abs(last.value))) last.value = value
    } else found.push({ from: i, to: i + 1, text, value })
  }
  return found
}
