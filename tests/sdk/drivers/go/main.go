// The driver of the Go SDK: commands on standard input, events and results on standard output.
// ../../driver.py describes the commands and the events.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type fields map[string]any

type position struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

type command struct {
	ID        int64           `json:"id"`
	Do        string          `json:"do"`
	Client    string          `json:"client"`
	URL       string          `json:"url"`
	Protocol  string          `json:"protocol"`
	Token     string          `json:"token"`
	Tokens    []string        `json:"tokens"`
	Channel   string          `json:"channel"`
	Data      json.RawMessage `json:"data"`
	Method    string          `json:"method"`
	Limit     int32           `json:"limit"`
	Since     *position       `json:"since"`
	Reverse   bool            `json:"reverse"`
	JoinLeave bool            `json:"join_leave"`
	Delta     string          `json:"delta"`
}

var output sync.Mutex

func write(line fields) {
	output.Lock()
	defer output.Unlock()
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(text, '\n'))
}

func raw(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	return json.RawMessage(data)
}

func info(given *centrifuge.ClientInfo) any {
	if given == nil {
		return nil
	}
	return fields{
		"client": given.Client, "user": given.User,
		"conn_info": raw(given.ConnInfo), "chan_info": raw(given.ChanInfo),
	}
}

func tags(given map[string]string) map[string]string {
	if given == nil {
		return map[string]string{}
	}
	return given
}

func publication(given centrifuge.Publication) fields {
	return fields{"data": raw(given.Data), "offset": given.Offset, "info": info(given.Info), "tags": tags(given.Tags)}
}

func pairs(parts ...any) fields {
	line := fields{}
	for i := 0; i < len(parts); i += 2 {
		line[parts[i].(string)] = parts[i+1]
	}
	return line
}

func subscribed(recoverable, positioned, wasRecovering, recovered bool, at *centrifuge.StreamPosition, data []byte) fields {
	line := pairs("event", "subscribed", "recoverable", recoverable, "positioned", positioned,
		"was_recovering", wasRecovering, "recovered", recovered, "data", raw(data))
	if at != nil {
		line["position"] = position{at.Offset, at.Epoch}
	}
	return line
}

// failure gives the error's code, if the server or the SDK has one for it.
func failure(err error) (code uint32, message string) {
	var given *centrifuge.Error
	if errors.As(err, &given) {
		code = given.Code
	}
	return code, err.Error()
}

// handOut returns one token after the other, and the last one again and again.
func handOut(tokens []string, about ...any) func() (string, error) {
	var lock sync.Mutex
	return func() (string, error) {
		write(pairs(append(about, "event", "token")...))
		lock.Lock()
		defer lock.Unlock()
		token := tokens[0]
		if len(tokens) > 1 {
			tokens = tokens[1:]
		}
		return token, nil
	}
}

func open(given command) *centrifuge.Client {
	config := centrifuge.Config{
		Token: given.Token, Name: "sdk-test",
		MinReconnectDelay: 50 * time.Millisecond, MaxReconnectDelay: 500 * time.Millisecond,
	}
	if given.Tokens != nil {
		next := handOut(given.Tokens, "client", given.Client)
		config.GetToken = func(centrifuge.ConnectionTokenEvent) (string, error) { return next() }
	}
	create := centrifuge.NewJsonClient
	if given.Protocol == "protobuf" {
		create = centrifuge.NewProtobufClient
	}
	client := create(given.URL, config)
	emit := func(line fields) {
		line["client"] = given.Client
		write(line)
	}
	client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		emit(pairs("event", "connecting", "code", e.Code, "reason", e.Reason))
	})
	client.OnConnected(func(e centrifuge.ConnectedEvent) {
		emit(pairs("event", "connected", "id", e.ClientID, "data", raw(e.Data)))
	})
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		emit(pairs("event", "disconnected", "code", e.Code, "reason", e.Reason))
	})
	client.OnError(func(e centrifuge.ErrorEvent) {
		code, message := failure(e.Error)
		emit(pairs("event", "error", "code", code, "message", message))
	})
	client.OnMessage(func(e centrifuge.MessageEvent) { emit(pairs("event", "message", "data", raw(e.Data))) })
	client.OnSubscribing(func(e centrifuge.ServerSubscribingEvent) {
		emit(pairs("event", "subscribing", "channel", e.Channel))
	})
	client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		line := subscribed(e.Recoverable, e.Positioned, e.WasRecovering, e.Recovered, e.StreamPosition, e.Data)
		line["channel"] = e.Channel
		emit(line)
	})
	client.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) {
		emit(pairs("event", "unsubscribed", "channel", e.Channel))
	})
	client.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		line := publication(e.Publication)
		line["event"], line["channel"] = "publication", e.Channel
		emit(line)
	})
	client.OnJoin(func(e centrifuge.ServerJoinEvent) {
		emit(pairs("event", "join", "channel", e.Channel, "info", info(&e.ClientInfo)))
	})
	client.OnLeave(func(e centrifuge.ServerLeaveEvent) {
		emit(pairs("event", "leave", "channel", e.Channel, "info", info(&e.ClientInfo)))
	})
	return client
}

func subscribe(client *centrifuge.Client, given command) error {
	subscription, known := client.GetSubscription(given.Channel)
	if known {
		return subscription.Subscribe()
	}
	config := centrifuge.SubscriptionConfig{
		Token: given.Token, JoinLeave: given.JoinLeave, Delta: centrifuge.DeltaType(given.Delta),
		MinResubscribeDelay: 50 * time.Millisecond, MaxResubscribeDelay: 500 * time.Millisecond,
	}
	if given.Tokens != nil {
		next := handOut(given.Tokens, "client", given.Client, "channel", given.Channel)
		config.GetToken = func(centrifuge.SubscriptionTokenEvent) (string, error) { return next() }
	}
	subscription, err := client.NewSubscription(given.Channel, config)
	if err != nil {
		return err
	}
	emit := func(line fields) {
		line["client"], line["channel"] = given.Client, given.Channel
		write(line)
	}
	subscription.OnSubscribing(func(e centrifuge.SubscribingEvent) {
		emit(pairs("event", "subscribing", "code", e.Code, "reason", e.Reason))
	})
	subscription.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		emit(subscribed(e.Recoverable, e.Positioned, e.WasRecovering, e.Recovered, e.StreamPosition, e.Data))
	})
	subscription.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		emit(pairs("event", "unsubscribed", "code", e.Code, "reason", e.Reason))
	})
	subscription.OnError(func(e centrifuge.SubscriptionErrorEvent) {
		code, message := failure(e.Error)
		emit(pairs("event", "error", "code", code, "message", message))
	})
	subscription.OnPublication(func(e centrifuge.PublicationEvent) {
		line := publication(e.Publication)
		line["event"] = "publication"
		emit(line)
	})
	subscription.OnJoin(func(e centrifuge.JoinEvent) { emit(pairs("event", "join", "info", info(&e.ClientInfo))) })
	subscription.OnLeave(func(e centrifuge.LeaveEvent) { emit(pairs("event", "leave", "info", info(&e.ClientInfo))) })
	return subscription.Subscribe()
}

func run(client *centrifuge.Client, given command) (fields, error) {
	within, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch given.Do {
	case "connect":
		return nil, client.Connect()
	case "disconnect":
		return nil, client.Disconnect()
	case "subscribe":
		return nil, subscribe(client, given)
	case "unsubscribe":
		subscription, _ := client.GetSubscription(given.Channel)
		return nil, subscription.Unsubscribe()
	case "publish":
		_, err := client.Publish(within, given.Channel, given.Data)
		return nil, err
	case "rpc":
		answer, err := client.RPC(within, given.Method, given.Data)
		return fields{"data": raw(answer.Data)}, err
	case "presence":
		found, err := client.Presence(within, given.Channel)
		clients := fields{}
		for id, each := range found.Clients {
			clients[id] = info(&each)
		}
		return fields{"clients": clients}, err
	case "presence_stats":
		found, err := client.PresenceStats(within, given.Channel)
		return fields{"num_clients": found.NumClients, "num_users": found.NumUsers}, err
	case "history":
		options := []centrifuge.HistoryOption{
			centrifuge.WithHistoryLimit(given.Limit), centrifuge.WithHistoryReverse(given.Reverse),
		}
		if given.Since != nil {
			since := centrifuge.StreamPosition{Offset: given.Since.Offset, Epoch: given.Since.Epoch}
			options = append(options, centrifuge.WithHistorySince(&since))
		}
		found, err := client.History(within, given.Channel, options...)
		publications := []fields{}
		for _, each := range found.Publications {
			publications = append(publications, publication(each))
		}
		return fields{"offset": found.Offset, "epoch": found.Epoch, "publications": publications}, err
	}
	return nil, fmt.Errorf("this driver cannot %s", given.Do)
}

func main() {
	clients := map[string]*centrifuge.Client{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var given command
		if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
			panic(err)
		}
		if given.Do == "open" {
			clients[given.Client] = open(given)
			write(fields{"id": given.ID, "result": fields{}})
			continue
		}
		client := clients[given.Client]
		go func() {
			result, err := run(client, given)
			if err != nil {
				code, message := failure(err)
				write(fields{"id": given.ID, "error": fields{"code": code, "message": message}})
				return
			}
			if result == nil {
				result = fields{}
			}
			write(fields{"id": given.ID, "result": result})
		}()
	}
}
