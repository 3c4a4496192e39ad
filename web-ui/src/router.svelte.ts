// Where the reader is: the path and its query in the address bar (of an exported page, behind its #), so that links, the back button and
// sharing work; and how far each page was scrolled, so that going back leads to where the reader was.
import { Burst } from './address'
import { exported } from './api'

/** How far a page is scrolled, in pixels, and the tables in it, in rows, by what they are called. */
interface Scrolled {
  y: number
  tables: Record<string, number>
}

const KEPT = 'scrolled' // in the session's storage
const MOST = 200 // entries of the history that are kept over a reload
const PATIENCE = 10_000 // milliseconds in which what a page shows comes in
const SIGNS = ['wheel', 'touchstart', 'pointerdown', 'keydown'] // of a reader who wants to be elsewhere

const fresh = () => Math.random().toString(36).slice(2)

function address(): URL {
  if (!exported) return new URL(location.href)
  return new URL(`http://page${location.hash.startsWith('#/') ? location.hash.slice(1) : exported.start}`)
}

class Place {
  #url = $state(address())
  #path = $derived(this.#url.pathname) // derived, so that a change of the query alone does not build the page anew
  /** This entry of the history. */
  #entry = fresh()
  #scrolled = new Map<string, Scrolled>()
  #returning: AbortController | null = null
  #burst = new Burst()

  constructor() {
    history.scrollRestoration = 'manual' // the browser would scroll before there is anything to scroll
    if (!exported) {
      this.#scrolled = new Map(JSON.parse(sessionStorage.getItem(KEPT) ?? '[]'))
      addEventListener('pagehide', () => sessionStorage.setItem(KEPT, JSON.stringify([...this.#scrolled].slice(-MOST))))
    }
    addEventListener('click', (event) => this.#clicked(event))
    addEventListener('popstate', () => this.#arrived())
    addEventListener('scroll', () => this.#returning || (this.#here.y = scrollY))
    addEventListener('focusout', () => this.#burst.end())
    this.#arrived()
  }

  /** As in the address bar: with what stands behind percent signs. */
  get path(): string {
    return this.#path
  }

  get query(): URLSearchParams {
    return this.#url.searchParams
  }

  /** The path and its query. */
  get address(): string {
    return this.#url.pathname + this.#url.search
  }

  /** Go to another page of this site, as a link would. */
  go(to: string): void {
    this.#show(new URL(to, this.#url), true)
    scrollTo(0, 0)
  }

  /** Change some parameters of the query; null takes one out. The back button undoes it: `typing` all that is typed without a pause
   * at once, `replace` together with what was before. */
  set(parameters: Record<string, string | number | null>, how: 'push' | 'typing' | 'replace' = 'push'): void {
    const next = new URL(this.#url)
    for (const [name, value] of Object.entries(parameters)) {
      if (value === null || value === '') next.searchParams.delete(name)
      else next.searchParams.set(name, String(value))
    }
    if (next.href === this.#url.href) return
    const on = how === 'typing' && this.#burst.goesOn(Object.keys(parameters).join(), performance.now())
    if (how === 'push') this.#burst.end()
    this.#show(next, how !== 'replace' && !on)
    this.#here.y = scrollY
  }

  /** The row at the upper edge of a table when the reader left this entry; null where this is the first visit. */
  row(table: string): number | null {
    return this.#here.tables[table] ?? null
  }

  keep(table: string, row: number): void {
    this.#here.tables[table] = row
  }

  get #here(): Scrolled {
    let found = this.#scrolled.get(this.#entry)
    if (!found) this.#scrolled.set(this.#entry, (found = { y: 0, tables: {} }))
    return found
  }

  #show(to: URL, push: boolean): void {
    if (!this.#returning) this.#here.y = scrollY // the event of the last scrolling may not have come yet
    this.#returning?.abort()
    if (push) this.#entry = fresh()
    this.#url = to
    const text = to.pathname + to.search
    const bar = exported ? `${location.href.split('#')[0]}#${text}` : text // whole: inside a notebook's frame `#…` alone is the notebook's
    history[push ? 'pushState' : 'replaceState']({ entry: this.#entry }, '', bar)
  }

  /** At an entry of the history: by the back button or a reload, or at a new one, by a link within the page. */
  #arrived(): void {
    const entry: string | undefined = history.state?.entry
    this.#returning?.abort()
    this.#burst.end()
    this.#entry = entry ?? fresh()
    if (this.#url.href !== address().href) this.#url = address()
    if (entry) this.#return(this.#here.y)
    else history.replaceState({ entry: this.#entry }, '')
  }

  /** Scroll to where the reader was, again whenever more of the page has come in, until the reader does something. */
  #return(y: number): void {
    const control = (this.#returning = new AbortController())
    const { signal } = control
    const sizes = new ResizeObserver(() => scrollTo(0, y))
    sizes.observe(document.documentElement)
    for (const sign of SIGNS) addEventListener(sign, () => control.abort(), { signal, passive: true })
    setTimeout(() => control.abort(), PATIENCE)
    signal.addEventListener('abort', () => {
      sizes.disconnect()
      if (this.#returning === control) this.#returning = null
    })
  }

  #clicked(event: MouseEvent): void {
    const link = (event.target as Element).closest?.('a')
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
    const to = link.getAttribute('href') ?? ''
    if (exported && to.startsWith('#')) {
      const part = document.getElementById(to.slice(1)) // the address has the page behind its #
      part?.scrollIntoView()
      part?.focus({ preventScroll: true })
      event.preventDefault()
    }
    if (link.target || link.hasAttribute('download') || !/^\/(?!\/)/.test(to)) return
    event.preventDefault()
    this.go(to)
  }
}

export const place = new Place()
