// The store's data: the JSON beside each page, from the server, or from the file itself where the page was exported.
import { canonical } from './address'
import type { components } from './schemas'

export type Schemas = components['schemas']

/** What the server said why it did not answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message)
  }
}

interface Exported {
  start: string
  answers: Record<string, unknown>
}

/** The data of an exported page; null where a server is behind it. */
export const exported: Exported | null = (() => {
  const place = document.getElementById('assay-data')
  return place?.textContent ? (JSON.parse(place.textContent) as Exported) : null
})()
const answers = new Map(Object.entries(exported?.answers ?? {}).map(([url, answer]) => [canonical(url), answer]))

const NOT_INSIDE = 'This is an exported page: it holds only what was exported. Open the store with `assay serve` for the rest.'

async function refused(response: Response): Promise<Refused> {
  const body = await response.json().catch(() => null)
  const detail = body?.message
  return new Refused(response.status, detail ?? `The server answered ${response.status}.`)
}

/** GET a JSON document, e.g. `/coders/topk.json?x=1`. */
export async function get<T>(url: string, signal?: AbortSignal): Promise<T> {
  if (exported) {
    if (!answers.has(canonical(url))) throw new Refused(404, NOT_INSIDE)
    return answers.get(canonical(url)) as T
  }
  const response = await fetch(url, { signal })
  if (!response.ok) throw await refused(response)
  return (await response.json()) as T
}

/** GET raw bytes. */
export async function bytes(url: string, signal?: AbortSignal): Promise<ArrayBuffer> {
  if (exported) {
    const found = answers.get(canonical(url))
    if (typeof found !== 'string') throw new Refused(404, NOT_INSIDE)
    return Uint8Array.from(atob(found), (c) => c.charCodeAt(0)).buffer
  }
  const response = await fetch(url, { signal })
  if (!response.ok) throw await refused(response)
  return await response.arrayBuffer()
}

/** Send JSON with another method, and read what comes back. */
export async function send<T>(method: 'POST' | 'PUT' | 'DELETE', url: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  if (exported) throw new Refused(404, NOT_INSIDE)
  const request: RequestInit = { method, signal }
  if (body !== undefined) Object.assign(request, { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } })
  const response = await fetch(url, request)
  if (!response.ok) throw await refused(response)
  return (response.status === 204 ? undefined : await response.json()) as T
}

/** POST, and hand over each server-sent event (`data: JSON`) as it comes. */
export async function stream<T>(url: string, body: unknown, each: (event: T) => void, signal?: AbortSignal): Promise<void> {
  if (exported) throw new Refused(404, NOT_INSIDE)
  const response = await fetch(url, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' }, signal })
  if (!response.ok || !response.body) throw await refused(response)
  let rest = ''
  for await (const part of response.body.pipeThrough(new TextDecoderStream()) as unknown as AsyncIterable<string>) {
    const blocks = (rest + part).split('\n\n')
    rest = blocks.pop() ?? ''
    for (const block of blocks) if (block.startsWith('data: ')) each(JSON.parse(block.slice(6)) as T)
  }
}
