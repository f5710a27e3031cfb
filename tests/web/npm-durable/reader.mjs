// The public client: prints each item of a stream as a line, from an offset on, until it has printed enough.
// node reader.mjs URL OFFSET LIVE COUNT
import { stream } from "@durable-streams/client"

const [url, offset, live, count] = process.argv.slice(2)
const controller = new AbortController()
const response = await stream({ url, offset, live, signal: controller.signal, headers: { "x-user": "alice" } })
let printed = 0
response.subscribeJson(async (batch) => {
  for (const item of batch.items) {
    console.log(JSON.stringify(item))
    printed += 1
  }
  console.error(batch.offset)
  if (printed >= Number(count)) process.exit(0)
})
console.error("ready")
