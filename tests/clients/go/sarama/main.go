// sarama: its default partitioner is FNV-1a. The Java client's is not part of it: it is written out here.
package main

import (
	"fmt"
	"math/rand"
	"time"

	"github.com/IBM/sarama"

	"turnlog.example/clients/lines"
)

const timeout = 20 * time.Second

// javaPartitioner places a record with a key as the Java client does, and one without a key anywhere.
type javaPartitioner struct{}

func (javaPartitioner) Partition(message *sarama.ProducerMessage, count int32) (int32, error) {
	if message.Key == nil {
		return rand.Int31n(count), nil
	}
	key, err := message.Key.Encode()
	return int32(murmur2(key)&0x7fffffff) % count, err
}

func (javaPartitioner) RequiresConsistency() bool { return true }

// murmur2 by Austin Appleby (public domain), with the seed of the Java client.
func murmur2(data []byte) uint32 {
	const m = 0x5bd1e995
	hash := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		hash = hash*m ^ k
	}
	switch len(data) {
	case 3:
		hash ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		hash ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		hash = (hash ^ uint32(data[0])) * m
	}
	hash = (hash ^ hash>>13) * m
	return hash ^ hash>>15
}

// chosen is the partitioner of a record that names its partition.
type chosen struct {
	sarama.Partitioner
}

func (c chosen) Partition(message *sarama.ProducerMessage, count int32) (int32, error) {
	if partition, named := message.Metadata.(int32); named {
		return partition, nil
	}
	return c.Partitioner.Partition(message, count)
}

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

type client struct {
	bootstrap string
	producers map[string]sarama.SyncProducer
	open      sarama.SyncProducer
	consumer  sarama.Consumer
	reading   sarama.PartitionConsumer
	topic     string
	partition int32
	offset    int64
}

func (c *client) Start(bootstrap string) error {
	c.bootstrap, c.producers = bootstrap, map[string]sarama.SyncProducer{}
	return nil
}

func (c *client) producer(batch lines.Batch) (sarama.SyncProducer, error) {
	transactional := batch.Transaction != nil
	key := fmt.Sprint(batch.Codec, batch.Partitioner, transactional)
	if c.producers[key] == nil {
		config := sarama.NewConfig()
		config.Version = sarama.V2_1_0_0 // zstd needs it
		config.Producer.Return.Successes = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Producer.Compression = codecs[batch.Codec]
		config.Producer.MaxMessageBytes = 8 << 20
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
		config.Producer.Partitioner = func(topic string) sarama.Partitioner {
			if batch.Partitioner == "java" {
				return chosen{javaPartitioner{}}
			}
			return chosen{sarama.NewHashPartitioner(topic)}
		}
		if transactional {
			config.Producer.Transaction.ID = fmt.Sprint("sarama-", rand.Int63())
		}
		made, err := sarama.NewSyncProducer([]string{c.bootstrap}, config)
		if err != nil {
			return nil, err
		}
		c.producers[key] = made
	}
	return c.producers[key], nil
}

func (c *client) Produce(batch lines.Batch) error {
	producer, err := c.producer(batch)
	if err != nil {
		return err
	}
	if batch.Transaction != nil {
		if err := producer.BeginTxn(); err != nil {
			return err
		}
	}
	messages := []*sarama.ProducerMessage{}
	for _, each := range batch.Records {
		message := &sarama.ProducerMessage{Topic: batch.Topic}
		if each.Key != nil {
			message.Key = sarama.ByteEncoder(each.Key)
		}
		if each.Value != nil {
			message.Value = sarama.ByteEncoder(each.Value)
		}
		if each.Partition != nil {
			message.Metadata = *each.Partition
		}
		if each.TimestampMs != nil {
			message.Timestamp = time.UnixMilli(*each.TimestampMs)
		}
		for _, header := range each.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: header[0], Value: header[1]})
		}
		messages = append(messages, message)
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	if batch.Transaction == nil {
		return nil
	}
	c.open = producer
	if *batch.Transaction == "open" {
		return nil
	}
	return c.End(*batch.Transaction == "commit")
}

func (c *client) End(commit bool) error {
	if commit {
		return c.open.CommitTxn()
	}
	return c.open.AbortTxn()
}

func (c *client) Consume(topic string, partition int32, offset int64, waitMs int) ([]lines.Record, error) {
	if c.consumer == nil {
		config := sarama.NewConfig()
		config.Version = sarama.V2_1_0_0
		config.Consumer.MaxWaitTime = 50 * time.Millisecond
		made, err := sarama.NewConsumer([]string{c.bootstrap}, config)
		if err != nil {
			return nil, err
		}
		c.consumer = made
	}
	if c.reading == nil || c.topic != topic || c.partition != partition || c.offset != offset {
		if c.reading != nil {
			c.reading.Close()
		}
		made, err := c.consumer.ConsumePartition(topic, partition, offset)
		if err != nil {
			return nil, err
		}
		c.reading, c.topic, c.partition, c.offset = made, topic, partition, offset
	}
	found := []lines.Record{}
	wait := time.Duration(waitMs) * time.Millisecond
	for {
		select {
		case message := <-c.reading.Messages():
			made := lines.Record{Key: message.Key, Value: message.Value, Offset: message.Offset, Headers: []lines.Header{}}
			for _, header := range message.Headers {
				made.Headers = append(made.Headers, lines.Header{header.Key, header.Value})
			}
			found = append(found, made)
			c.offset = message.Offset + 1
			wait = 20 * time.Millisecond // only the first is waited for
		case <-time.After(wait):
			return found, nil
		}
	}
}

func main() {
	lines.Serve(&client{}, "github.com/IBM/sarama")
}
