import com.google.protobuf.ByteString;
import io.github.kanserve.inference.GRPCInferenceServiceGrpc;
import io.github.kanserve.inference.ModelInferRequest;
import io.github.kanserve.v1.ExplainRequest;
import io.github.kanserve.v1.KanServiceGrpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Sends one row to the model "hello" over TLS, and prints its output and feature contributions. */
public final class KanserveClient {
    private static final long DEADLINE_SECONDS = 10;

    /** UNAVAILABLE: a restart or a full queue. RESOURCE_EXHAUSTED: a rate limit. The server sends the time to wait. */
    private static final Map<String, ?> SERVICE_CONFIG = Map.of("methodConfig", List.of(Map.of(
            "name", List.of(
                    Map.of("service", "inference.GRPCInferenceService"),
                    Map.of("service", "kanserve.v1.KanService", "method", "Explain")),
            "retryPolicy", Map.of(
                    "maxAttempts", 5.0,
                    "initialBackoff", "0.1s",
                    "maxBackoff", "2s",
                    "backoffMultiplier", 2.0,
                    "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))));

    /** Arguments: HOST:PORT, the file of the CA certificates, the file with the token. */
    public static void main(String[] arguments) throws Exception {
        String token = Files.readString(Path.of(arguments[2])).strip();
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
        ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0])
                .sslContext(GrpcSslContexts.forClient().trustManager(new File(arguments[1])).build())
                .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
                .defaultServiceConfig(SERVICE_CONFIG)
                .enableRetry()
                .build();
        try {
            ByteString row = floats(0.5f, -0.5f);

            var input = ModelInferRequest.InferInputTensor.newBuilder()
                    .setName("x").setDatatype("FP32").addShape(1).addShape(2);
            var inferred = GRPCInferenceServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
                    .modelInfer(ModelInferRequest.newBuilder()
                            .setModelName("hello").addInputs(input).addRawInputContents(row).build());
            System.out.println("output " + littleEndian(inferred.getRawOutputContents(0)).getFloat());

            var explained = KanServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
                    .explain(ExplainRequest.newBuilder().setModelName("hello").setRows(row).setRowCount(1).build());
            System.out.println("base " + littleEndian(explained.getBase()).getDouble());
            ByteBuffer contributions = littleEndian(explained.getContributions()); // [rows, nodes, outputs]
            for (int node = 0; node < explained.getNodes(); node++) {
                System.out.println("contribution " + contributions.getDouble());
            }
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
    }

    private static ByteString floats(float... values) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : values) {
            bytes.putFloat(value);
        }
        return ByteString.copyFrom(bytes.flip());
    }

    private static ByteBuffer littleEndian(ByteString bytes) {
        return bytes.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    }
}
