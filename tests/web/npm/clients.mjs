// One client library, from a position, until it has seen a number of events: `node clients.mjs LIBRARY URL COUNT`.
// It prints one JSON line for each event, and one when it has caught up. Every library reconnects by itself.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";
import ReconnectingEventSource from "reconnecting-eventsource";

const [library, url, count] = process.argv.slice(2);
let seen = 0;

function say(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

function message(id, data) {
  say({ id, n: JSON.parse(data).payload });
  seen += 1;
  if (seen >= Number(count)) setTimeout(() => process.exit(0), 300); // time for one that should not come
}

function native(source) {
  source.addEventListener("message", (event) => message(event.lastEventId, event.data));
  source.addEventListener("notify.sync", () => say({ sync: true }));
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const LIBRARIES = {
  eventsource() {
    native(new EventSource(url));
  },

  "reconnecting-eventsource"() {
    native(new (ReconnectingEventSource.default ?? ReconnectingEventSource)(url, {
      eventSourceClass: EventSource,
      max_retry_time: 500,
    }));
  },

  "fetch-event-source"() {
    globalThis.window = globalThis; // it is written for browsers
    fetchEventSource(url, {
      openWhenHidden: true,
      fetch,
      onmessage(event) {
        if (event.event === "notify.sync") say({ sync: true });
        else if (event.event === "") message(event.id, event.data);
      },
      onclose() {
        throw new Error("ended"); // its way to ask for another connection
      },
      onerror: () => 200,
    });
  },

  async "eventsource-parser"() {
    let lastId = "";
    const parser = createParser({
      onEvent(event) {
        if (event.id !== undefined) lastId = event.id;
        if (event.event === "notify.sync") say({ sync: true });
        else if (event.event === undefined) message(event.id, event.data);
      },
    });
    for (;;) {
      try {
        const response = await fetch(url, { headers: lastId ? { "Last-Event-ID": lastId } : {} });
        const text = response.body.pipeThrough(new TextDecoderStream());
        for await (const chunk of text) parser.feed(chunk);
      } catch {
        // the server is away
      }
      parser.reset();
      await sleep(200);
    }
  },
};

LIBRARIES[library]();
