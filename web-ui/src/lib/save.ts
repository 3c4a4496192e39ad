// What a reader takes away: text as a file, a chart as SVG or PNG.

export function saveBlob(blob: Blob, name: string): void {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

/** Rows as CSV: what holds commas, quotes or line breaks is quoted, what is missing is empty. */
export function csv(names: readonly string[], rows: readonly (readonly (string | number | boolean | null | undefined)[])[]): string {
  const cell = (value: unknown) => {
    const text = value === null || value === undefined ? '' : String(value)
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  }
  return [names, ...rows].map((row) => row.map(cell).join(',')).join('\n') + '\n'
}

export const saveCsv = (names: readonly string[], rows: Parameters<typeof csv>[1], name: string): void =>
  saveBlob(new Blob([csv(names, rows)], { type: 'text/csv' }), name)

export interface LegendEntry {
  text: string
  colour: string
  /** A mark's outline around 0 0; left out, a disc. */
  path?: string
  hollow?: boolean
}
export interface Below {
  legend?: readonly LegendEntry[]
  /** What is shown, and how it was measured. */
  caption?: string
}
const DISC = 'M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z'

function made(name: string, attributes: Record<string, string | number>, text = ''): SVGElement {
  const part = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, String(value))
  part.textContent = text
  return part
}

/** Words in lines of at most so many characters. */
export function wrapped(text: string, most: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const line = `${lines.at(-1) ?? ''} ${word}`.trim()
    if (lines.length && line.length <= most) lines[lines.length - 1] = line
    else lines.push(word)
  }
  return lines
}

/** Writes a legend and a caption below a chart of this width; gives how far down they reach. */
function below(home: SVGElement, width: number, from: number, { legend = [], caption }: Below): number {
  let [x, y] = [14, from + 16]
  for (const { text, colour, path, hollow } of legend) {
    const room = 30 + text.length * 7
    if (x + room > width && x > 14) [x, y] = [14, y + 20]
    home.append(made('path', { d: path ?? DISC, transform: `translate(${x} ${y})`, fill: hollow ? 'white' : colour, stroke: colour, 'stroke-width': 1.4 }))
    home.append(made('text', { x: x + 11, y: y + 4, fill: 'black', 'text-anchor': 'start' }, text))
    x += room
  }
  if (legend.length) y += 22
  for (const line of caption ? wrapped(caption, Math.floor(width / 6)) : []) {
    home.append(made('text', { x: 8, y: y + 2, fill: '#555', 'font-size': 11, 'text-anchor': 'start' }, line))
    y += 15
  }
  return legend.length || caption ? y : from
}

/** A chart as a file of its own: in light colours, written out, on white, with a legend and a caption below. */
export function asSvg(chart: SVGSVGElement, more: Below = {}): string {
  const root = document.documentElement
  const theme = root.dataset.theme
  root.dataset.theme = 'light' // colours follow the root; nothing is painted before it is as it was
  const home = document.body.appendChild(made('svg', { width: 0, height: 0 }))
  const copy = home.appendChild(chart.cloneNode(true) as SVGSVGElement)
  try {
    const [width, height] = [chart.width.baseVal.value, chart.height.baseVal.value]
    const tall = below(copy, width, height, more)
    for (const part of copy.querySelectorAll<SVGElement>('*')) {
      const style = getComputedStyle(part)
      for (const name of ['fill', 'stroke'] as const) if (/var\(|currentcolor/i.test(part.getAttribute(name) ?? '')) part.setAttribute(name, style[name])
    }
    copy.prepend(made('rect', { width, height: tall, fill: 'white' }))
    const said = { xmlns: 'http://www.w3.org/2000/svg', height: tall, viewBox: `0 0 ${width} ${tall}`, fill: 'black', 'font-family': 'Helvetica, Arial, sans-serif', 'font-size': 12 }
    for (const [key, value] of Object.entries(said)) copy.setAttribute(key, String(value))
    copy.style.color = 'black'
    return new XMLSerializer().serializeToString(copy)
  } finally {
    home.remove()
    if (theme === undefined) delete root.dataset.theme
    else root.dataset.theme = theme
  }
}

export const saveSvg = (chart: SVGSVGElement, name: string, more: Below = {}): void =>
  saveBlob(new Blob([asSvg(chart, more)], { type: 'image/svg+xml' }), name)

/** The same as pixels, twice as many as on the page. */
export async function savePng(chart: SVGSVGElement, name: string, more: Below = {}): Promise<void> {
  const image = new Image()
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(asSvg(chart, more))}`
  await image.decode()
  const canvas = document.createElement('canvas')
  ;[canvas.width, canvas.height] = [image.width * 2, image.height * 2]
  canvas.getContext('2d')!.drawImage(image, 0, 0, canvas.width, canvas.height)
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, 'image/png'))
  if (blob) saveBlob(blob, name)
}
