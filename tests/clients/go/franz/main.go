// franz-go: its default partitioner is the Java client's, its default codec is snappy.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"turnlog.example/clients/lines"
)

const timeout = 20 * time.Second

type franz struct {
	bootstrap string
	producers map[string]*kgo.Client
	open      *kgo.Client
	consumer  *kgo.Client
	topic     string
	partition int32
	offset    int64
}

func (f *franz) Start(bootstrap string) error {
	f.bootstrap, f.producers = bootstrap, map[string]*kgo.Client{}
	return nil
}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func (f *franz) producer(batch lines.Batch) (*kgo.Client, error) {
	transactional := batch.Transaction != nil
	manual := false
	for _, record := range batch.Records {
		manual = manual || record.Partition != nil
	}
	key := fmt.Sprint(batch.Codec, transactional, manual)
	if f.producers[key] == nil {
		options := []kgo.Opt{
			kgo.SeedBrokers(f.bootstrap),
			kgo.ProducerBatchCompression(codecs[batch.Codec]),
			kgo.ProducerBatchMaxBytes(8 << 20),
		}
		if manual {
			options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		}
		if transactional {
			options = append(options, kgo.TransactionalID(fmt.Sprint("franz-", rand.Int63())))
		}
		made, err := kgo.NewClient(options...)
		if err != nil {
			return nil, err
		}
		f.producers[key] = made
	}
	return f.producers[key], nil
}

func (f *franz) Produce(batch lines.Batch) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := f.producer(batch)
	if err != nil {
		return err
	}
	if batch.Transaction != nil {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
	}
	records := []*kgo.Record{}
	for _, each := range batch.Records {
		record := &kgo.Record{Topic: batch.Topic, Key: each.Key, Value: each.Value}
		if each.Partition != nil {
			record.Partition = *each.Partition
		}
		if each.TimestampMs != nil {
			record.Timestamp = time.UnixMilli(*each.TimestampMs)
		}
		for _, header := range each.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: string(header[0]), Value: header[1]})
		}
		records = append(records, record)
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	if batch.Transaction != nil {
		if *batch.Transaction == "open" {
			f.open = client
			return nil
		}
		return client.EndTransaction(ctx, kgo.TransactionEndTry(*batch.Transaction == "commit"))
	}
	return nil
}

func (f *franz) End(commit bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return f.open.EndTransaction(ctx, kgo.TransactionEndTry(commit))
}

func (f *franz) Consume(topic string, partition int32, offset int64, waitMs int) ([]lines.Record, error) {
	if f.consumer == nil || f.topic != topic || f.partition != partition || f.offset != offset {
		if f.consumer != nil {
			f.consumer.Close()
		}
		start := map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(offset)}}
		made, err := kgo.NewClient(
			kgo.SeedBrokers(f.bootstrap), kgo.ConsumePartitions(start), kgo.FetchMaxWait(50*time.Millisecond))
		if err != nil {
			return nil, err
		}
		f.consumer, f.topic, f.partition, f.offset = made, topic, partition, offset
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(waitMs)*time.Millisecond)
	defer cancel()
	found := []lines.Record{}
	fetches := f.consumer.PollFetches(ctx)
	fetches.EachRecord(func(record *kgo.Record) {
		made := lines.Record{Key: record.Key, Value: record.Value, Offset: record.Offset, Headers: []lines.Header{}}
		for _, header := range record.Headers {
			made.Headers = append(made.Headers, lines.Header{[]byte(header.Key), header.Value})
		}
		found = append(found, made)
		f.offset = record.Offset + 1
	})
	if err := fetches.Err0(); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return found, nil
}

func main() {
	lines.Serve(&franz{}, "github.com/twmb/franz-go")
}
