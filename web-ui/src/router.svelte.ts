// Where the reader is: the path and its query, in the address bar, so that links, the back button and sharing work.
import { exported } from './api'

class Place {
  #url = $state(new URL(exported ? `http://page${exported.start}` : location.href))
  #path = $derived(decodeURI(this.#url.pathname)) // derived, so that a change of the query alone does not build the page anew

  constructor() {
    addEventListener('click', (event) => this.#clicked(event))
    if (!exported) addEventListener('popstate', () => (this.#url = new URL(location.href)))
  }

  get path(): string {
    return this.#path
  }

  get query(): URLSearchParams {
    return this.#url.searchParams
  }

  /** Go to another page of this site, as a link would. */
  go(to: string): void {
    this.#show(to, true)
    if (!exported) scrollTo(0, 0)
  }

  /** Change some parameters of the query; null takes one out. No new entry in the history unless `push`. */
  set(parameters: Record<string, string | number | null>, push = false): void {
    const next = new URL(this.#url)
    for (const [name, value] of Object.entries(parameters)) {
      if (value === null || value === '') next.searchParams.delete(name)
      else next.searchParams.set(name, String(value))
    }
    if (next.href !== this.#url.href) this.#show(next.pathname + next.search, push)
  }

  #show(to: string, push: boolean): void {
    this.#url = new URL(to, this.#url)
    if (!exported) history[push ? 'pushState' : 'replaceState'](null, '', to)
  }

  #clicked(event: MouseEvent): void {
    const link = (event.target as Element).closest?.('a')
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
    const to = link.getAttribute('href') ?? ''
    if (link.target || link.hasAttribute('download') || !/^\/(?!\/)/.test(to)) return
    event.preventDefault()
    this.go(to)
  }
}

export const place = new Place()
