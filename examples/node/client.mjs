// Streams an answer with Node: the client is made from the .proto when it starts, nothing is generated.
//
//     cd examples/node && npm ci
//     node client.mjs "Once upon a time" [MAX_TOKENS]      # TARGET=host:port, PACELINE_TOKEN=… if needed
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";

const [prompt = "The sky is", maxTokens = "32"] = process.argv.slice(2);
const target = process.env.TARGET ?? "127.0.0.1:50051";
const root = fileURLToPath(new URL("../../proto", import.meta.url));
const definition = loadSync("paceline/v1/generation.proto", {
  includeDirs: [root],
  keepCase: true,
  longs: String, // seeds and counters are 64 bits wide, numbers of JavaScript 53
  enums: String,
  defaults: true, // an empty text is "", not undefined
  oneofs: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).paceline.v1;
const client = new GenerationService(target, grpc.credentials.createInsecure());

const metadata = new grpc.Metadata();
if (process.env.PACELINE_TOKEN) metadata.set("authorization", `Bearer ${process.env.PACELINE_TOKEN}`);

const generation = { text: prompt, stopping: { max_tokens: Number(maxTokens) } };
const call = client.GenerateStream({ generation }, metadata, { deadline: Date.now() + 30_000 });
process.on("SIGINT", () => call.cancel()); // the server stops work at its next step

call.on("data", (message) => {
  process.stdout.write(message.text);
  if (message.finish) console.error(`\n${message.finish.reason}`);
  if (message.summary) console.error(`${message.summary.usage.completion_tokens} tokens`);
});
call.on("error", (error) => {
  const [retryMs] = error.metadata?.get("grpc-retry-pushback-ms") ?? [];
  console.error(`${grpc.status[error.code]}: ${error.details}`, retryMs ? `come back in ${retryMs} ms` : "");
  process.exitCode = 1;
});
call.on("close", () => client.close());
