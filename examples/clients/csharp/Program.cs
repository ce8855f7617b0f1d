// A client of kanserve: sends one row to the model "hello" over TLS, and prints its output and feature contributions.
// Arguments: HOST:PORT, the file of the CA certificates, the file with the token.
using System.Buffers.Binary;
using System.Security.Cryptography.X509Certificates;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;
using Grpc.Net.Client.Configuration;
using Kanserve.Inference;
using Kanserve.V1;

var deadline = TimeSpan.FromSeconds(10);
var token = File.ReadAllText(args[2]).Trim();

// Trust the certificates of the file only.
var policy = new X509ChainPolicy
{
    TrustMode = X509ChainTrustMode.CustomRootTrust,
    RevocationMode = X509RevocationMode.NoCheck,
};
policy.CustomTrustStore.ImportFromPemFile(args[1]);
var handler = new SocketsHttpHandler();
handler.SslOptions.CertificateChainPolicy = policy;

// UNAVAILABLE: a restart or a full queue. RESOURCE_EXHAUSTED: a rate limit. The server sends the time to wait.
var retries = new MethodConfig
{
    Names =
    {
        new MethodName { Service = "inference.GRPCInferenceService" },
        new MethodName { Service = "kanserve.v1.KanService", Method = "Explain" },
    },
    RetryPolicy = new RetryPolicy
    {
        MaxAttempts = 5,
        InitialBackoff = TimeSpan.FromSeconds(0.1),
        MaxBackoff = TimeSpan.FromSeconds(2),
        BackoffMultiplier = 2,
        RetryableStatusCodes = { StatusCode.Unavailable, StatusCode.ResourceExhausted },
    },
};

var bearer = CallCredentials.FromInterceptor((_, metadata) =>
{
    metadata.Add("Authorization", $"Bearer {token}");
    return Task.CompletedTask;
});
using var channel = GrpcChannel.ForAddress($"https://{args[0]}", new GrpcChannelOptions
{
    HttpHandler = handler,
    DisposeHttpClient = true,
    Credentials = ChannelCredentials.Create(ChannelCredentials.SecureSsl, bearer),
    ServiceConfig = new ServiceConfig { MethodConfigs = { retries } },
});

var bytes = new byte[8];
BinaryPrimitives.WriteSingleLittleEndian(bytes, 0.5f);
BinaryPrimitives.WriteSingleLittleEndian(bytes.AsSpan(4), -0.5f);
var row = ByteString.CopyFrom(bytes);

var input = new ModelInferRequest.Types.InferInputTensor { Name = "x", Datatype = "FP32", Shape = { 1, 2 } };
var inferred = await new GRPCInferenceService.GRPCInferenceServiceClient(channel).ModelInferAsync(
    new ModelInferRequest { ModelName = "hello", Inputs = { input }, RawInputContents = { row } },
    deadline: DateTime.UtcNow + deadline);
Console.WriteLine($"output {BinaryPrimitives.ReadSingleLittleEndian(inferred.RawOutputContents[0].Span)}");

var explained = await new KanService.KanServiceClient(channel).ExplainAsync(
    new ExplainRequest { ModelName = "hello", Rows = row, RowCount = 1 },
    deadline: DateTime.UtcNow + deadline);
Console.WriteLine($"base {BinaryPrimitives.ReadDoubleLittleEndian(explained.Base.Span)}");
for (var node = 0; node < explained.Nodes; node++) // contributions [rows, nodes, outputs]
{
    var contribution = explained.Contributions.Span[(8 * node)..];
    Console.WriteLine($"contribution {BinaryPrimitives.ReadDoubleLittleEndian(contribution)}");
}
