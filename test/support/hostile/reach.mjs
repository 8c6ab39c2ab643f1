// Runs inside a sandbox, as the agent's own command: tries to reach whatever there is and prints the answers as one line of JSON.
// Argument, in base64: a JSON object { gateway: port, phantom, strangers: {name: token}, tcp: [[host, port]], unix: [paths], names: [], session, otherSession }.
import { lookup, resolve4 } from "node:dns/promises";
import http2 from "node:http2";
import net from "node:net";
import { networkInterfaces } from "node:os";

const options = JSON.parse(Buffer.from(process.argv[2], "base64").toString());
const patience = 1500;

function connect(address) {
  return new Promise((resolve) => {
    const socket = net.connect(address);
    const end = (what) => {
      socket.destroy();
      resolve(what);
    };
    socket.setTimeout(patience, () => end("no answer"));
    socket.once("connect", () => end("connected"));
    socket.once("error", (error) => end(error.code ?? "failed"));
  });
}

/** Writes bytes as they are to the gateway and gives back the status lines of all answers. */
function raw(text) {
  return new Promise((resolve) => {
    const socket = net.connect(options.gateway, "127.0.0.1", () => socket.write(text));
    let answer = "";
    const end = () => {
      socket.destroy();
      resolve(answer.match(/HTTP\/1\.[01] \d{3}/g)?.map((line) => Number(line.slice(9))) ?? (answer ? ["other"] : ["closed"]));
    };
    socket.setTimeout(patience, end);
    socket.on("data", (chunk) => {
      answer += chunk;
      setTimeout(end, 200);
    });
    socket.once("error", end);
    socket.once("close", end);
  });
}

const body = JSON.stringify({ model: "claude-sonnet-4-5", messages: [{ role: "user", content: "hello" }] });
const request = (line, token = options.phantom, more = "") =>
  raw(
    `${line} HTTP/1.1\r\nhost: x\r\nx-api-key: ${token}\r\nanthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n${more}content-length: ${body.length}\r\n\r\n${body}`,
  );

function rpc(path, message, authorization, streams = false) {
  return new Promise((resolve) => {
    const session = http2.connect(`http://127.0.0.1:${options.gateway}`);
    const end = (what) => {
      session.destroy();
      resolve(what);
    };
    setTimeout(() => end("no answer"), patience);
    session.once("error", (error) => end(error.code ?? "failed"));
    const stream = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": streams ? "application/connect+json" : "application/json",
      ...(authorization ? { authorization } : {}),
    });
    let status;
    const chunks = [];
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("error", (error) => end(error.code ?? "failed"));
    stream.on("end", () => {
      const body = Buffer.concat(chunks);
      // A stream that refuses begins with its end, which is marked.
      end({ answered: status < 400 && !(streams && body[0] !== 0), status, text: body.toString().slice(0, 300) });
    });
    stream.end(streams ? envelope(message) : JSON.stringify(message));
  });
}

/** A message of a stream: no flags, its length, itself. */
function envelope(message) {
  const body = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
}

const lines = [
  "GET /v1/messages",
  "PUT /v1/messages",
  "DELETE /v1/messages",
  "OPTIONS /v1/messages",
  "TRACE /v1/messages",
  "HEAD /v1/messages",
  "GET /v1/files",
  "POST /v1/files",
  "POST /v1/files?beta=true",
  "GET /v1/organizations",
  "POST /v1/organizations/api_keys",
  "GET /v1/models",
  "POST /v1/messages/batches",
  "POST /v1/complete",
  "POST /",
  "POST /v1/messages/",
  "POST //v1/messages",
  "POST /v1//messages",
  "POST /V1/messages",
  "POST /v1/messages/../files",
  "POST /v1/messages/%2e%2e/files",
  "POST /v1/%2e%2e/v1/files",
  "POST /v1/messages%2f..%2ffiles",
  "POST /v1/messages;x=/v1/files",
  "POST /v1/messages%00",
  "POST /v1/messages?beta=true&to=/v1/files",
  "POST /v1/messages?",
  "POST /v1/messages#/v1/files",
  "POST http://127.0.0.1/v1/messages",
  "POST http://api.anthropic.com/v1/files",
  "POST https://api.anthropic.com/v1/messages",
  "CONNECT api.anthropic.com:443",
  "CONNECT 127.0.0.1:22",
  "POST /carrel.v1.SessionService/ListSessions",
  "POST /v1/sessions",
  "GET /healthz",
  "GET /metrics",
];
const paths = {};
for (const line of lines) paths[line] = await request(line);
paths["upgrade to websocket"] = await raw(
  `GET /v1/sessions/${options.session}/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\nx-api-key: ${options.phantom}\r\n\r\n`,
);
paths["upgrade to h2c"] = await raw(
  `GET /v1/files HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nx-api-key: ${options.phantom}\r\n\r\n`,
);
paths["a second request in the body of the first"] = await raw(
  `POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: ${options.phantom}\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nPOST /v1/files HTTP/1.1\r\nhost: x\r\n\r\n`,
);
paths["a line with two targets"] = await raw(`POST /v1/messages /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: ${options.phantom}\r\n\r\n`);

const tokens = {};
for (const [name, token] of Object.entries(options.strangers)) tokens[name] = await request("POST /v1/messages/count_tokens", token);

const service = "/carrel.runner.v1.RunnerService";
const calls = {};
const message = (sessionId) => ({ sessionId, epoch: 1, firstRunnerSeq: 1, events: [] });
for (const [name, token] of Object.entries({ nobody: undefined, phantom: options.phantom, ...options.strangers })) {
  const bearer = token && `Bearer ${token}`;
  calls[`${name}: append to its own session`] = await rpc(`${service}/ReportEvents`, message(options.session), bearer, true);
  calls[`${name}: append to another session`] = await rpc(`${service}/ReportEvents`, message(options.otherSession), bearer, true);
  calls[`${name}: detach another session`] = await rpc(
    `${service}/Detach`,
    { sessionId: options.otherSession, epoch: 1, reason: "x", exitCode: 0 },
    bearer,
  );
}
calls["attach with a guess"] = await rpc(`${service}/Attach`, { attachToken: "cat_guess" });
calls["a service of the people"] = await rpc("/carrel.v1.SessionService/ListSessions", {}, `Bearer ${options.phantom}`);
calls["a path of the people"] = await rpc("/v1/sessions", {}, `Bearer ${options.phantom}`);
calls["the model over HTTP/2"] = await rpc("/v1/messages", {}, `Bearer ${options.phantom}`);

const names = {};
for (const name of options.names)
  names[name] = await Promise.any([lookup(name), resolve4(name)]).then(
    () => "resolved",
    () => "not resolved",
  );
console.log(
  JSON.stringify({
    interfaces: Object.keys(networkInterfaces()),
    control: await request("POST /v1/messages/count_tokens"),
    paths,
    tokens,
    calls,
    names,
    tcp: Object.fromEntries(await Promise.all(options.tcp.map(async ([host, port]) => [`${host}:${port}`, await connect({ host, port })]))),
    unix: Object.fromEntries(await Promise.all(options.unix.map(async (path) => [path, await connect({ path })]))),
    own: await connect({ host: "127.0.0.1", port: options.gateway }),
  }),
);
process.exit(0);
