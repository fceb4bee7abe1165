// Lists the agents and follows the events, with types that were generated from the description of the API.

import createClient from "openapi-fetch";
import { Agent, fetch as fetchOver } from "undici";
import type { components, paths } from "./api.js";

const dispatcher = new Agent({ connect: { socketPath: process.argv[2] } });
const overSocket = async ({ url, headers }: Request): Promise<Response> =>
  (await fetchOver(url, { headers: [...headers], dispatcher })) as unknown as Response;
const client = createClient<paths>({ baseUrl: "http://agentd", fetch: overSocket });

const { data: health } = await client.GET("/v1/health");
if (health?.state !== "running") throw new Error(JSON.stringify(health));

const nobody = await client.GET("/v1/agents/{name}", { params: { path: { name: "nobody" } } });
const code: components["schemas"]["FaultCode"] | undefined = nobody.error?.code;
if (code !== "no-such-agent") throw new Error(JSON.stringify(nobody.error));

const { data: agents } = await client.GET("/v1/agents");
for (const agent of agents ?? []) {
  const kinds = (agent.waiting_for ?? []).map((waiting) => waiting.kind);
  console.log(agent.name, agent.state, agent.exit?.code ?? "None", ...kinds);
}
const path = { name: "done" };
const log = await client.GET("/v1/agents/{name}/log", { params: { path, query: { lines: 1 } }, parseAs: "text" });
process.stdout.write(log.data ?? "");

const { data: stream } = await client.GET("/v1/events", { parseAs: "stream" });
if (!stream) throw new Error("there is no stream");
console.log("following");
let kept = "";
reading: for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
  const lines = (kept + chunk).split("\n");
  kept = lines.pop() ?? "";
  for (const line of lines.filter((line) => line.startsWith("data: "))) {
    const event = JSON.parse(line.slice("data: ".length)) as components["schemas"]["Event"];
    // The type tells which keys there are.
    if (event.type === "state" && event.name === "late" && event.agent.state === "running") {
      console.log("late runs");
      break reading;
    }
  }
}
process.exit();
