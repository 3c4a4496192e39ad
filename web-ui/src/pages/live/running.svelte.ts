// A request whose answer grows: what has come so far, whether it waits or works, and a way to stop it.
import { stream, type Schemas } from '../../api'

type Event = Schemas['Waiting'] | Schemas['Begun'] | Schemas['Failed'] | { kind: string }

export class Running<T extends Event> {
  state = $state<'idle' | 'asked' | 'waiting' | 'working' | 'stopped' | 'done'>('idle')
  ahead = $state(0)
  error = $state<string | null>(null)
  #abort: AbortController | null = null

  get busy(): boolean {
    return this.state === 'asked' || this.state === 'waiting' || this.state === 'working'
  }

  /** POST, and hand over what comes. A request that is still under way is stopped first. */
  async start(url: string, body: unknown, each: (event: T) => void): Promise<void> {
    this.stop()
    const mine = (this.#abort = new AbortController())
    this.error = null
    this.state = 'asked'
    try {
      await stream<T | Event>(
        url,
        body,
        (event) => {
          if (mine !== this.#abort) return
          if (event.kind === 'waiting') [this.state, this.ahead] = ['waiting', (event as Schemas['Waiting']).ahead]
          else if (event.kind === 'failed') this.error = (event as Schemas['Failed']).message
          else {
            this.state = 'working'
            each(event as T)
          }
        },
        mine.signal,
      )
      if (mine === this.#abort) this.state = 'done'
    } catch (caught) {
      if (mine !== this.#abort) return
      this.state = mine.signal.aborted ? 'stopped' : 'done'
      if (!mine.signal.aborted) this.error = (caught as Error).message
    }
  }

  stop(): void {
    this.#abort?.abort()
  }
}
