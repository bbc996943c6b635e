// What OpenAI's own client for node makes of a gateway: the argument is its address with /v1. Prints what it has seen.
import OpenAI from "openai"

const [baseURL] = process.argv.slice(2)
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 })
const tool = { type: "function", name: "get_weather", parameters: { type: "object", properties: {} }, strict: false }
const seen = {}

const plain = await client.responses.create({ model: "echo:", input: "Hello there" })
seen.text = plain.output_text

const types = []
const stream = client.responses.stream({ model: "script:node?tools=0&words=20", input: "Go" })
for await (const event of stream) types.push(event.type)
const final = await stream.finalResponse()
seen.types = types
seen.streamed = final.output_text

const numbers = []
const replay = await client.responses.retrieve(final.id, { stream: true, starting_after: 3 })
for await (const event of replay) numbers.push(event.sequence_number)
seen.numbers = numbers

const asked = await client.responses.create({
  model: "script:7?tools=0&client_calls=1", input: "The weather?", tools: [tool],
})
const call = asked.output.find((item) => item.type === "function_call")
const output = { type: "function_call_output", call_id: call.call_id, output: "Sunny" }
const answered = await client.responses.create({
  model: "script:8?tools=0&words=4", input: [output], previous_response_id: asked.id, tools: [tool],
})
seen.called = [call.name, answered.status]

const background = await client.responses.create({
  model: "script:slow?tools=0&words=400&delta_ms=30", input: "Go", background: true,
})
seen.cancelled = (await client.responses.cancel(background.id)).status
seen.items = (await client.responses.inputItems.list(plain.id)).data.length
try {
  await client.responses.create({ model: "gpt-9", input: "x" })
} catch (error) {
  seen.refused = [error.status, error.code]
}

let text = ""
const messages = [{ role: "user", content: "Hello all of you" }]
const chunks = await client.chat.completions.create({ model: "echo:", messages, stream: true })
for await (const chunk of chunks) text += chunk.choices[0].delta.content ?? ""
seen.completion = text
console.log(JSON.stringify(seen))
