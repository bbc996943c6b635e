// Package lines speaks JSON lines with the conformance kit, as ../../adapters/lines.py describes them.
package lines

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
)

// Header is a name and a value; the value may be absent.
type Header [2][]byte

// Record is one to produce, or one that was consumed. Absent keys and values are nil.
type Record struct {
	Key         []byte   `json:"key"`
	Value       []byte   `json:"value"`
	Headers     []Header `json:"headers"`
	Partition   *int32   `json:"partition,omitempty"`
	TimestampMs *int64   `json:"timestamp_ms,omitempty"`
	Offset      int64    `json:"offset"`
}

// Batch is what one "produce" asks for.
type Batch struct {
	Topic       string   `json:"topic"`
	Codec       string   `json:"codec"`
	Partitioner string   `json:"partitioner"`
	Transaction *string  `json:"transaction"`
	Records     []Record `json:"records"`
}

// Adapter is a client library, as the kit drives it.
type Adapter interface {
	Start(bootstrap string) error
	Produce(batch Batch) error
	End(commit bool) error
	Consume(topic string, partition int32, offset int64, waitMs int) ([]Record, error)
}

type question struct {
	Op        string `json:"op"`
	Bootstrap string `json:"bootstrap"`
	How       string `json:"how"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	WaitMs    int    `json:"wait_ms"`
}

// Version is that of a module this program was built with.
func Version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return "unknown"
}

func answer(adapter Adapter, module string, line []byte) (map[string]any, error) {
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return nil, err
	}
	switch asked.Op {
	case "start":
		return map[string]any{"version": Version(module)}, adapter.Start(asked.Bootstrap)
	case "produce":
		var batch Batch
		if err := json.Unmarshal(line, &batch); err != nil {
			return nil, err
		}
		return map[string]any{}, adapter.Produce(batch)
	case "end":
		return map[string]any{}, adapter.End(asked.How == "commit")
	case "consume":
		records, err := adapter.Consume(asked.Topic, asked.Partition, asked.Offset, asked.WaitMs)
		if records == nil {
			records = []Record{}
		}
		return map[string]any{"records": records}, err
	}
	return nil, fmt.Errorf("unknown op %q", asked.Op)
}

// Serve answers until standard input ends.
func Serve(adapter Adapter, module string) {
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		made, err := answer(adapter, module, line)
		if err != nil {
			made = map[string]any{"error": err.Error()}
		}
		if err := out.Encode(made); err != nil {
			return
		}
	}
}
