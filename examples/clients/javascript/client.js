// A client of kanserve: sends one row to the model "hello" over TLS, and prints its output and feature contributions.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const DEADLINE_MS = 10_000;

// UNAVAILABLE: a restart or a full queue. RESOURCE_EXHAUSTED: a rate limit. The server sends the time to wait.
const SERVICE_CONFIG = {
  methodConfig: [{
    name: [
      { service: "inference.GRPCInferenceService" },
      { service: "kanserve.v1.KanService", method: "Explain" },
    ],
    retryPolicy: {
      maxAttempts: 5, initialBackoff: "0.1s", maxBackoff: "2s", backoffMultiplier: 2,
      retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    },
  }],
};

// Arguments: HOST:PORT, the file of the CA certificates, the file with the token.
const [address, ca, tokenFile] = process.argv.slice(2);
const token = readFileSync(tokenFile, "utf8").trim();
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);
const credentials = grpc.credentials.combineChannelCredentials(
  grpc.credentials.createSsl(readFileSync(ca)),
  grpc.credentials.createFromMetadataGenerator((_, done) => done(null, metadata)),
);
const options = { "grpc.service_config": JSON.stringify(SERVICE_CONFIG) };

const protos = fileURLToPath(new URL("../../../proto", import.meta.url));
const { inference, kanserve } = grpc.loadPackageDefinition(
  loader.loadSync(["grpc_service.proto", "kan.proto"], { includeDirs: [protos], longs: Number }),
);
const triton = new inference.GRPCInferenceService(address, credentials, options);
const kan = new kanserve.v1.KanService(address, credentials, options);

const call = (client, method, request) =>
  promisify(client[method]).call(client, request, { deadline: Date.now() + DEADLINE_MS });
const row = Buffer.from(new Float32Array([0.5, -0.5]).buffer); // little-endian, as processors of Node.js are

const inferred = await call(triton, "ModelInfer", {
  modelName: "hello",
  inputs: [{ name: "x", datatype: "FP32", shape: [1, 2] }],
  rawInputContents: [row],
});
console.log("output", inferred.rawOutputContents[0].readFloatLE());

const explained = await call(kan, "Explain", { modelName: "hello", rows: row, rowCount: 1 });
console.log("base", explained.base.readDoubleLE());
for (let node = 0; node < explained.nodes; node++) {
  console.log("contribution", explained.contributions.readDoubleLE(8 * node)); // [rows, nodes, outputs]
}
triton.close();
kan.close();
