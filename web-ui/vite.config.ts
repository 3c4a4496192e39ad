import { svelte } from '@sveltejs/vite-plugin-svelte'
import { viteSingleFile } from 'vite-plugin-singlefile'
import { defineConfig } from 'vitest/config'

// Two builds of the same pages: what the server sends (split by page), and one file that holds everything, for exports.
export default defineConfig(({ mode }) => {
  const single = mode === 'single'
  return {
    base: single ? './' : '/',
    plugins: [svelte(), ...(single ? [viteSingleFile()] : [])],
    build: {
      outDir: single ? '../assay/web/static/single' : '../assay/web/static',
      emptyOutDir: true,
      target: 'es2022',
      modulePreload: { polyfill: false },
      chunkSizeWarningLimit: 1000,
      rolldownOptions: { output: { entryFileNames: 'assets/[name].js', chunkFileNames: 'assets/[name].js', assetFileNames: 'assets/[name][extname]' } },
    },
    server: { proxy: { '^/.*\\.json|/live/|/.*\\.bin': 'http://127.0.0.1:8642' } },
    test: { include: ['src/**/*.test.ts'] },
  }
})
