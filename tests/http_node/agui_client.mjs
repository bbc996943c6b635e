// One run with AG-UI's own client: arguments are the address, the thread, the run and the text. Prints what it has.
import { HttpAgent } from "@ag-ui/client"

const [url, threadId, runId, text] = process.argv.slice(2)
const agent = new HttpAgent({ url, threadId, initialMessages: [{ id: "mine", role: "user", content: text }] })
const types = []
await agent.runAgent({ runId }, { onEvent: ({ event }) => { types.push(event.type) } })
console.log(JSON.stringify({ types, messages: agent.messages }))
