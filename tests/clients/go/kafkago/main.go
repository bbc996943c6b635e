// kafka-go: without a balancer it goes round robin, so the Java client's must be set. Its writer has no transactions.
package main

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"

	"turnlog.example/clients/lines"
)

const timeout = 20 * time.Second

type kafkaGo struct {
	bootstrap string
	reader    *kafka.Reader
	topic     string
	partition int32
	offset    int64
}

// chosen is the balancer of a record that names its partition.
type chosen struct {
	balancer kafka.Balancer
}

func (c chosen) Balance(message kafka.Message, partitions ...int) int {
	if partition, named := message.WriterData.(int32); named {
		return int(partition)
	}
	return c.balancer.Balance(message, partitions...)
}

var codecs = map[string]kafka.Compression{
	"gzip":   kafka.Gzip,
	"snappy": kafka.Snappy,
	"lz4":    kafka.Lz4,
	"zstd":   kafka.Zstd,
}

func (k *kafkaGo) Start(bootstrap string) error {
	k.bootstrap = bootstrap
	return nil
}

func (k *kafkaGo) Produce(batch lines.Batch) error {
	if batch.Transaction != nil {
		return errors.New("kafka-go's writer has no transactions")
	}
	var balancer kafka.Balancer = &kafka.RoundRobin{}
	if batch.Partitioner == "java" {
		balancer = kafka.Murmur2Balancer{}
	}
	writer := &kafka.Writer{
		Addr:         kafka.TCP(k.bootstrap),
		Topic:        batch.Topic,
		Balancer:     chosen{balancer},
		RequiredAcks: kafka.RequireAll,
		Compression:  codecs[batch.Codec],
		BatchTimeout: 5 * time.Millisecond,
		BatchBytes:   8 << 20,
	}
	defer writer.Close()
	messages := []kafka.Message{}
	for _, each := range batch.Records {
		message := kafka.Message{Key: each.Key, Value: each.Value}
		if each.Partition != nil {
			message.WriterData = *each.Partition
		}
		if each.TimestampMs != nil {
			message.Time = time.UnixMilli(*each.TimestampMs)
		}
		for _, header := range each.Headers {
			message.Headers = append(message.Headers, kafka.Header{Key: string(header[0]), Value: header[1]})
		}
		messages = append(messages, message)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return writer.WriteMessages(ctx, messages...)
}

func (k *kafkaGo) End(bool) error {
	return errors.New("kafka-go's writer has no transactions")
}

func (k *kafkaGo) Consume(topic string, partition int32, offset int64, waitMs int) ([]lines.Record, error) {
	if k.reader == nil || k.topic != topic || k.partition != partition || k.offset != offset {
		if k.reader != nil {
			k.reader.Close()
		}
		k.reader = kafka.NewReader(kafka.ReaderConfig{
			Brokers: []string{k.bootstrap}, Topic: topic, Partition: int(partition), MaxWait: 50 * time.Millisecond,
		})
		if err := k.reader.SetOffset(offset); err != nil {
			return nil, err
		}
		k.topic, k.partition, k.offset = topic, partition, offset
	}
	found := []lines.Record{}
	wait := time.Duration(waitMs) * time.Millisecond
	for {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		message, err := k.reader.ReadMessage(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		made := lines.Record{Key: message.Key, Value: message.Value, Offset: message.Offset, Headers: []lines.Header{}}
		for _, header := range message.Headers {
			made.Headers = append(made.Headers, lines.Header{[]byte(header.Key), header.Value})
		}
		found = append(found, made)
		k.offset = message.Offset + 1
		wait = 20 * time.Millisecond // only the first is waited for
	}
}

func main() {
	lines.Serve(&kafkaGo{}, "github.com/segmentio/kafka-go")
}
