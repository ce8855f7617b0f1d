// A client of kanserve: sends one row to the model "hello" over TLS, and prints its output and feature contributions.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/kanserve-client/stubs/inference"
	"example.com/kanserve-client/stubs/kanservev1"
)

//go:generate mkdir -p stubs
//go:generate protoc -I../../../proto --go_out=stubs --go-grpc_out=stubs --go_opt=module=github.com/kanserve/kanserve/proto --go-grpc_opt=module=github.com/kanserve/kanserve/proto grpc_service.proto model_config.proto kan.proto

const deadline = 10 * time.Second

// UNAVAILABLE: a restart or a full queue. RESOURCE_EXHAUSTED: a rate limit. The server sends the time to wait.
const serviceConfig = `{"methodConfig": [{
	"name": [
		{"service": "inference.GRPCInferenceService"},
		{"service": "kanserve.v1.KanService", "method": "Explain"}
	],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
	}
}]}`

// bearer sends the token with each call, over TLS only.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// Arguments: HOST:PORT, the file of the CA certificates, the file with the token.
func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(address, ca, tokenFile string) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return err
	}
	encryption, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return err
	}
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(encryption),
		grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))),
		grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		return err
	}
	defer channel.Close()
	row, err := binary.Append(nil, binary.LittleEndian, []float32{0.5, -0.5})
	if err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	inferred, err := inference.NewGRPCInferenceServiceClient(channel).ModelInfer(ctx, &inference.ModelInferRequest{
		ModelName:        "hello",
		Inputs:           []*inference.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 2}}},
		RawInputContents: [][]byte{row},
	})
	if err != nil {
		return err
	}
	fmt.Println("output", math.Float32frombits(binary.LittleEndian.Uint32(inferred.RawOutputContents[0])))

	ctx, cancel = context.WithTimeout(context.Background(), deadline)
	defer cancel()
	explained, err := kanservev1.NewKanServiceClient(channel).Explain(ctx, &kanservev1.ExplainRequest{
		ModelName: "hello", Rows: row, RowCount: 1,
	})
	if err != nil {
		return err
	}
	fmt.Println("base", float64At(explained.Base, 0))
	for node := range int(explained.Nodes) { // contributions [rows, nodes, outputs]
		fmt.Println("contribution", float64At(explained.Contributions, node))
	}
	return nil
}

func float64At(data []byte, index int) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(data[8*index:]))
}
