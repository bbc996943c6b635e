// What the AI SDK's provider for Open Responses makes of a gateway: the argument is the address of its responses.
import { createOpenResponses } from "@ai-sdk/open-responses"
import { generateText, jsonSchema, streamText, tool } from "ai"

const [url] = process.argv.slice(2)
const provider = createOpenResponses({ name: "turnlog", url, apiKey: "any" })
const seen = {}

const plain = await generateText({ model: provider("echo:"), prompt: "Hello there" })
seen.text = plain.text
seen.finish = plain.finishReason

let text = ""
const stream = streamText({ model: provider("script:ai?tools=0&words=20&reasoning=true"), prompt: "Go" })
for await (const piece of stream.textStream) text += piece
seen.streamed = [text, await stream.finishReason]

const weather = tool({
  description: "The weather.",
  inputSchema: jsonSchema({ type: "object", properties: {}, additionalProperties: true }),
})
const asked = await generateText({
  model: provider("script:7?tools=0&client_calls=1"), prompt: "The weather?", tools: { get_weather: weather },
})
seen.calls = asked.toolCalls.map((call) => call.toolName)
seen.callFinish = asked.finishReason
try {
  await generateText({ model: provider("gpt-9"), prompt: "x", maxRetries: 0 })
} catch (error) {
  seen.refused = [error.statusCode, String(error.message).includes("model")]
}
console.log(JSON.stringify(seen))
