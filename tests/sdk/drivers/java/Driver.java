// The driver of the Java SDK: commands on standard input, events and results on standard output.
// ../../driver.py describes the commands and the events. This SDK speaks Protobuf alone.

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.centrifugal.centrifuge.*;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

import static java.nio.charset.StandardCharsets.UTF_8;

public class Driver {
    static final Gson JSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
    static final PrintStream OUTPUT = new PrintStream(System.out, false, UTF_8);
    static final Map<String, Client> CLIENTS = new ConcurrentHashMap<>();

    static synchronized void write(JsonObject line) {
        OUTPUT.println(JSON.toJson(line));
        OUTPUT.flush();
    }

    static JsonObject object(Object... parts) {
        JsonObject made = new JsonObject();
        for (int i = 0; i < parts.length; i += 2) made.add((String) parts[i], JSON.toJsonTree(parts[i + 1]));
        return made;
    }

    static JsonElement json(byte[] data) {
        return data == null || data.length == 0 ? JsonNull.INSTANCE : JsonParser.parseString(new String(data, UTF_8));
    }

    static byte[] bytes(JsonObject command, String field) {
        return JSON.toJson(command.get(field)).getBytes(UTF_8);
    }

    static String text(JsonObject command, String field) {
        return command.get(field).getAsString();
    }

    static boolean flag(JsonObject command, String field) {
        return command.has(field) && command.get(field).getAsBoolean();
    }

    static JsonElement info(ClientInfo info) {
        if (info == null) return JsonNull.INSTANCE;
        return object("client", info.getClient(), "user", info.getUser(),
                "conn_info", json(info.getConnInfo()), "chan_info", json(info.getChanInfo()));
    }

    static JsonObject publication(byte[] data, long offset, ClientInfo info, Map<String, String> tags) {
        return object("data", json(data), "offset", offset, "info", info(info), "tags", tags == null ? Map.of() : tags);
    }

    static JsonObject error(Throwable error) {
        Throwable cause = error;
        while (cause != null && !(cause instanceof ReplyError)) cause = cause.getCause();
        int code = cause instanceof ReplyError ? ((ReplyError) cause).getCode() : 0;
        String message = cause == null ? error.toString() : cause.getMessage();
        return object("code", code, "message", message);
    }

    /** The tokens one after the other, and the last one again and again. */
    static class Tokens {
        private final List<JsonElement> tokens;
        private final Object[] about;
        private final AtomicInteger next = new AtomicInteger();

        Tokens(JsonArray given, Object... about) {
            tokens = given.asList();
            this.about = about;
        }

        String next() {
            JsonObject asked = object(about);
            asked.addProperty("event", "token");
            write(asked);
            return tokens.get(Math.min(next.getAndIncrement(), tokens.size() - 1)).getAsString();
        }
    }

    /** Reports the events of one client, those of its server-side subscriptions too. */
    static class ClientReporter extends EventListener {
        private final String name;

        ClientReporter(String name) {
            this.name = name;
        }

        void emit(String event, JsonObject line) {
            line.addProperty("client", name);
            line.addProperty("event", event);
            write(line);
        }

        @Override
        public void onConnecting(Client client, ConnectingEvent event) {
            emit("connecting", object("code", event.getCode(), "reason", event.getReason()));
        }

        @Override
        public void onConnected(Client client, ConnectedEvent event) {
            emit("connected", object("id", event.getClient(), "data", json(event.getData())));
        }

        @Override
        public void onDisconnected(Client client, DisconnectedEvent event) {
            emit("disconnected", object("code", event.getCode(), "reason", event.getReason()));
        }

        @Override
        public void onError(Client client, ErrorEvent event) {
            emit("error", error(event.getError()));
        }

        @Override
        public void onMessage(Client client, MessageEvent event) {
            emit("message", object("data", json(event.getData())));
        }

        @Override
        public void onSubscribing(Client client, ServerSubscribingEvent event) {
            emit("subscribing", object("channel", event.getChannel()));
        }

        @Override
        public void onSubscribed(Client client, ServerSubscribedEvent event) {
            emit("subscribed", object("channel", event.getChannel(), "recoverable", event.getRecoverable(),
                    "positioned", event.getPositioned(), "was_recovering", event.wasRecovering(),
                    "recovered", event.getRecovered(), "data", json(event.getData())));
        }

        @Override
        public void onUnsubscribed(Client client, ServerUnsubscribedEvent event) {
            emit("unsubscribed", object("channel", event.getChannel()));
        }

        @Override
        public void onPublication(Client client, ServerPublicationEvent event) {
            JsonObject line = publication(event.getData(), event.getOffset(), event.getInfo(), event.getTags());
            line.addProperty("channel", event.getChannel());
            emit("publication", line);
        }

        @Override
        public void onJoin(Client client, ServerJoinEvent event) {
            emit("join", object("channel", event.getChannel(), "info", info(event.getInfo())));
        }

        @Override
        public void onLeave(Client client, ServerLeaveEvent event) {
            emit("leave", object("channel", event.getChannel(), "info", info(event.getInfo())));
        }
    }

    /** Reports the events of one subscription. */
    static class SubscriptionReporter extends SubscriptionEventListener {
        private final String name;

        SubscriptionReporter(String name) {
            this.name = name;
        }

        void emit(Subscription subscription, String event, JsonObject line) {
            line.addProperty("client", name);
            line.addProperty("channel", subscription.getChannel());
            line.addProperty("event", event);
            write(line);
        }

        @Override
        public void onSubscribing(Subscription subscription, SubscribingEvent event) {
            emit(subscription, "subscribing", object("code", event.getCode(), "reason", event.getReason()));
        }

        @Override
        public void onSubscribed(Subscription subscription, SubscribedEvent event) {
            emit(subscription, "subscribed", object("recoverable", event.getRecoverable(),
                    "positioned", event.getPositioned(), "was_recovering", event.wasRecovering(),
                    "recovered", event.getRecovered(), "data", json(event.getData())));
        }

        @Override
        public void onUnsubscribed(Subscription subscription, UnsubscribedEvent event) {
            emit(subscription, "unsubscribed", object("code", event.getCode(), "reason", event.getReason()));
        }

        @Override
        public void onError(Subscription subscription, SubscriptionErrorEvent event) {
            emit(subscription, "error", error(event.getError()));
        }

        @Override
        public void onPublication(Subscription subscription, PublicationEvent event) {
            emit(subscription, "publication",
                    publication(event.getData(), event.getOffset(), event.getInfo(), event.getTags()));
        }

        @Override
        public void onJoin(Subscription subscription, JoinEvent event) {
            emit(subscription, "join", object("info", info(event.getInfo())));
        }

        @Override
        public void onLeave(Subscription subscription, LeaveEvent event) {
            emit(subscription, "leave", object("info", info(event.getInfo())));
        }
    }

    static Client open(String name, JsonObject command) {
        Options options = new Options();
        options.setName("sdk-test");
        options.setMinReconnectDelay(50);
        options.setMaxReconnectDelay(500);
        if (command.has("token")) options.setToken(text(command, "token"));
        if (command.has("tokens")) {
            Tokens tokens = new Tokens(command.getAsJsonArray("tokens"), "client", name);
            options.setTokenGetter(new ConnectionTokenGetter() {
                @Override
                public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                    callback.Done(null, tokens.next());
                }
            });
        }
        return new Client(text(command, "url"), options, new ClientReporter(name));
    }

    static void subscribe(Client client, String name, JsonObject command) throws DuplicateSubscriptionException {
        Subscription subscription = client.getSubscription(text(command, "channel"));
        if (subscription == null) {
            SubscriptionOptions options = new SubscriptionOptions();
            options.setMinResubscribeDelay(50);
            options.setMaxResubscribeDelay(500);
            options.setJoinLeave(flag(command, "join_leave"));
            if (command.has("token")) options.setToken(text(command, "token"));
            if (command.has("tokens")) {
                Tokens tokens = new Tokens(command.getAsJsonArray("tokens"), "client", name, "channel", text(command, "channel"));
                options.setTokenGetter(new SubscriptionTokenGetter() {
                    @Override
                    public void getSubscriptionToken(SubscriptionTokenEvent event, TokenCallback callback) {
                        callback.Done(null, tokens.next());
                    }
                });
            }
            subscription = client.newSubscription(text(command, "channel"), options, new SubscriptionReporter(name));
        }
        subscription.subscribe();
    }

    /** Gives what a call has returned to the test, once it has. */
    interface Render<T> {
        JsonObject of(T result);
    }

    static <T> ResultCallback<T> reply(long id, Render<T> render) {
        return (error, result) ->
                write(error != null ? object("id", id, "error", error(error)) : object("id", id, "result", render.of(result)));
    }

    static JsonObject history(HistoryResult found) {
        JsonArray publications = new JsonArray();
        for (Publication each : found.getPublications()) {
            publications.add(publication(each.getData(), each.getOffset(), each.getInfo(), null));
        }
        return object("offset", found.getOffset(), "epoch", found.getEpoch(), "publications", publications);
    }

    static void run(long id, JsonObject command) throws Exception {
        String what = text(command, "do");
        String name = text(command, "client");
        if (what.equals("open")) {
            CLIENTS.put(name, open(name, command));
            write(object("id", id, "result", object()));
            return;
        }
        Client client = CLIENTS.get(name);
        switch (what) {
            case "connect":
                client.connect();
                break;
            case "disconnect":
                client.disconnect();
                break;
            case "subscribe":
                subscribe(client, name, command);
                break;
            case "unsubscribe":
                client.getSubscription(text(command, "channel")).unsubscribe();
                break;
            case "publish":
                client.publish(text(command, "channel"), bytes(command, "data"), reply(id, result -> object()));
                return;
            case "rpc":
                client.rpc(text(command, "method"), bytes(command, "data"),
                        reply(id, result -> object("data", json(result.getData()))));
                return;
            case "presence":
                client.presence(text(command, "channel"), reply(id, result -> {
                    JsonObject clients = new JsonObject();
                    result.getClients().forEach((key, value) -> clients.add(key, info(value)));
                    return object("clients", clients);
                }));
                return;
            case "presence_stats":
                client.presenceStats(text(command, "channel"), reply(id, result ->
                        object("num_clients", result.getNumClients(), "num_users", result.getNumUsers())));
                return;
            case "history":
                HistoryOptions.Builder options = new HistoryOptions.Builder()
                        .withLimit(command.get("limit").getAsInt()).withReverse(flag(command, "reverse"));
                if (command.has("since")) {
                    JsonObject since = command.getAsJsonObject("since");
                    options.withSince(new StreamPosition(since.get("offset").getAsLong(), text(since, "epoch")));
                }
                client.history(text(command, "channel"), options.build(), reply(id, Driver::history));
                return;
            default:
                throw new UnsupportedOperationException("this driver cannot " + what);
        }
        write(object("id", id, "result", object()));
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonObject command = JsonParser.parseString(line).getAsJsonObject();
            long id = command.get("id").getAsLong();
            try {
                run(id, command);
            } catch (Exception error) {
                write(object("id", id, "error", error(error)));
            }
        }
        System.exit(0);
    }
}
