// The public suite of Durable Streams, against the server that the test has started.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"
import { describe } from "vitest"

describe("suite", () => {
  runConformanceTests({ baseUrl: process.env.STREAMS_URL, longPollTimeoutMs: 6000 })
})
