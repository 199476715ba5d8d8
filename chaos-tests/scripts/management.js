// Calls of @aws-sdk/client-apigatewaymanagementapi, one for each line of standard input.

const readline = require("node:readline");
const sdk = require("@aws-sdk/client-apigatewaymanagementapi");

const [endpoint, accessKeyId, secretAccessKey] = process.argv.slice(2);
const client = new sdk.ApiGatewayManagementApiClient({
  endpoint,
  region: "eu-west-1",
  credentials: { accessKeyId, secretAccessKey },
});

function command({ name, connection, data }) {
  const input = { ConnectionId: connection };
  if (name === "post") {
    return new sdk.PostToConnectionCommand({ ...input, Data: Buffer.from(data, "base64") });
  }
  return name === "get" ? new sdk.GetConnectionCommand(input) : new sdk.DeleteConnectionCommand(input);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let told;
    try {
      const answer = await client.send(command(JSON.parse(line)));
      told = {
        status: answer.$metadata.httpStatusCode,
        repetitions: answer.$metadata.attempts - 1,
        sourceIp: answer.Identity?.SourceIp ?? null,
        connectedAt: answer.ConnectedAt ? answer.ConnectedAt.getTime() / 1000 : null,
      };
    } catch (error) {
      told = { status: error.$metadata?.httpStatusCode, error: error.name, message: error.message };
    }
    console.log(JSON.stringify(told));
  }
}

main();
