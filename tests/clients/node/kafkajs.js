// kafkajs, as an adapter of the conformance kit: the lines are described in ../adapters/lines.py.
"use strict";

const readline = require("node:readline");
const zlib = require("node:zlib");
const { randomUUID } = require("node:crypto");
const { Kafka, Partitioners, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const lz4 = require("lz4-napi");

// kafkajs itself has gzip only. The others are packages, and zstd is part of Node. (The frames of lz4js are refused by
// brokers: their blocks are not independent.)
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => zlib.zstdCompressSync(encoder.buffer),
  decompress: async (buffer) => zlib.zstdDecompressSync(buffer),
});
const COMPRESSION = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

const decoded = (text) => (text === null ? null : Buffer.from(text, "base64"));
const encoded = (bytes) => (bytes === null || bytes === undefined ? null : Buffer.from(bytes).toString("base64"));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let kafka;
let open = null; // the transaction that was left open
const producers = new Map();
const seen = new Map(); // topic -> partition -> records

async function producer(partitioner, transactional) {
  const key = `${partitioner} ${transactional}`;
  if (!producers.has(key)) {
    const own = transactional ? { transactionalId: randomUUID(), maxInFlightRequests: 1 } : {};
    // What it does without a setting is the Java client's way since version 2.
    const createPartitioner = partitioner === "java" ? Partitioners.DefaultPartitioner : undefined;
    const made = kafka.producer({ idempotent: true, createPartitioner, ...own });
    await made.connect();
    producers.set(key, made);
  }
  return producers.get(key);
}

// Names are text here, and those that come twice are an array.
function headersOf(pairs) {
  const headers = {};
  for (const [name, value] of pairs) {
    const text = decoded(name).toString("utf8");
    headers[text] = text in headers ? [headers[text], decoded(value)].flat() : decoded(value);
  }
  return headers;
}

async function produce({ topic, codec, partitioner, transaction, records }) {
  const messages = records.map((record) => {
    const message = { key: decoded(record.key), value: decoded(record.value), headers: headersOf(record.headers) };
    if (record.partition !== null) message.partition = record.partition;
    if (record.timestamp_ms !== null) message.timestamp = String(record.timestamp_ms);
    return message;
  });
  const out = { topic, messages, acks: -1, compression: COMPRESSION[codec] };
  const using = await producer(partitioner, transaction !== null);
  if (transaction === null) {
    await using.send(out);
    return {};
  }
  const begun = await using.transaction();
  await begun.send(out);
  if (transaction === "open") open = begun;
  else await begun[transaction]();
  return {};
}

// A kafkajs consumer cannot name its partitions: a group of its own reads all of the topic.
async function follow(topic) {
  const partitions = new Map();
  seen.set(topic, partitions);
  const consumer = kafka.consumer({ groupId: randomUUID(), maxWaitTimeInMs: 50 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      if (!partitions.has(partition)) partitions.set(partition, []);
      partitions.get(partition).push(message);
    },
  });
}

async function consume({ topic, partition, offset, wait_ms: waitMs }) {
  if (!seen.has(topic)) await follow(topic);
  const deadline = Date.now() + waitMs;
  for (;;) {
    const found = (seen.get(topic).get(partition) ?? []).filter((message) => Number(message.offset) >= offset);
    if (found.length || Date.now() >= deadline) {
      return {
        records: found.map((message) => ({
          offset: Number(message.offset),
          key: encoded(message.key),
          value: encoded(message.value),
          headers: Object.entries(message.headers).flatMap(([name, value]) =>
            [value].flat().map((each) => [encoded(name), encoded(each)]),
          ),
        })),
      };
    }
    await pause(20);
  }
}

const OPERATIONS = {
  start: async ({ bootstrap }) => {
    kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING });
    return { version: require("kafkajs/package.json").version };
  },
  produce,
  end: async ({ how }) => {
    await open[how]();
    return {};
  },
  consume,
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    const answer = await OPERATIONS[asked.op](asked).catch((error) => ({ error: `${error.name}: ${error.message}` }));
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

main();
