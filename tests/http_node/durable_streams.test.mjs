// The read part of the protocol's own tests, against the server of the environment's BASE.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({ baseUrl: process.env.BASE, longPollTimeoutMs: 500 })
