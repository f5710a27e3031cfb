// Drives Firefox by commands on standard input, one JSON object a line; answers each with one line.
import puppeteer from 'puppeteer-core';
import { createInterface } from 'node:readline';

const browser = await puppeteer.launch({
  browser: 'firefox',
  executablePath: '/usr/bin/firefox-esr',
  headless: true,
  timeout: 120_000, // a busy machine
  args: ['--no-remote'],
});
const pages = [];
const commands = {
  open: async () => pages.push(await browser.newPage()) - 1,
  go: async ({ page, url }) => void (await pages[page].goto(url)),
  run: ({ page, code }) => pages[page].evaluate(code),
  picture: async ({ page, path }) => void (await pages[page].screenshot({ path })),
  close: async ({ page }) => void (await pages[page].close()),
};
console.log('"ready"');
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line);
  if (name === 'quit') break;
  try {
    console.log(JSON.stringify({ value: (await commands[name](rest)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
// With a stream open, Firefox takes a minute to end by itself.
await Promise.race([browser.close(), new Promise((done) => setTimeout(done, 2000))]);
browser.process()?.kill('SIGKILL');
process.exit(0);
