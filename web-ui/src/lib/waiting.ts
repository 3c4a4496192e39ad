// Answers that take a while: the server says how far it is, and is asked again.
import { get } from '../api'

const PAUSE = [200, 400, 700, 1000] // milliseconds between questions; the last from then on

/** GET a document until it is `ready`; `told` sees every answer before. */
export async function until<T>(url: string, ready: (found: T) => boolean, told: (found: T) => void, signal: AbortSignal): Promise<T> {
  for (let turn = 0; ; turn++) {
    const found = await get<T>(url, signal)
    if (ready(found)) return found
    told(found)
    await new Promise((go) => setTimeout(go, PAUSE[Math.min(turn, PAUSE.length - 1)]))
    signal.throwIfAborted()
  }
}
