import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Iterator;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.MutableRecordBatch;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;
import org.xerial.snappy.Snappy;

/** Writes Kafka's encoding of two known sets of records, or checks another's. See README.md. */
public class GoldenBatches {
    static final long T0 = 1_700_000_000_000L;

    record Entry(long timestamp, byte[] key, byte[] value, Header[] headers) {}

    static byte[] utf8(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    static Header header(String key, String value) {
        return new RecordHeader(key, utf8(value));
    }

    static Entry[] few() {
        Header[] headers = {header("a", "1"), header("a", "2"), header("b", null), header("", "")};
        return new Entry[] {
            new Entry(T0, utf8("key"), utf8("value"), headers),
            new Entry(T0 - 5, null, utf8("no key, and earlier"), Record.EMPTY_HEADERS),
            new Entry(T0 + 5_000_000_000L, utf8("a tombstone, much later"), null, Record.EMPTY_HEADERS),
            new Entry(T0, utf8(""), utf8(""), Record.EMPTY_HEADERS),
        };
    }

    static Entry[] many() {
        Entry[] entries = new Entry[1000];
        for (int i = 0; i < entries.length; i++) {
            String value = String.format("record %d %s", i, String.valueOf((char) ('a' + i % 26)).repeat(80));
            entries[i] = new Entry(T0 + i, utf8("key-" + i % 17), utf8(value), Record.EMPTY_HEADERS);
        }
        return entries;
    }

    static ByteBuffer batch(
            CompressionType compression, TimestampType type, long producerId, short epoch, int sequence,
            boolean transactional, Entry[] entries) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(
                ByteBuffer.allocate(1 << 10), RecordBatch.MAGIC_VALUE_V2, Compression.of(compression).build(), type,
                0, T0 + 77, producerId, epoch, sequence, transactional, -1);
        for (Entry e : entries) builder.append(e.timestamp, e.key, e.value, e.headers);
        return builder.build().buffer();
    }

    static byte[] bytes(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    static void write(Path dir) throws Exception {
        TimestampType create = TimestampType.CREATE_TIME;
        for (CompressionType c : CompressionType.values()) {
            if (c != CompressionType.NONE)
                Files.write(dir.resolve("many-" + c.name + ".bin"),
                        bytes(batch(c, create, -1, (short) -1, -1, false, many())));
            Files.write(dir.resolve("few-" + c.name + ".bin"),
                    bytes(batch(c, create, -1, (short) -1, -1, false, few())));
        }
        Files.write(dir.resolve("idempotent.bin"),
                bytes(batch(CompressionType.NONE, create, 4_711, (short) 3, Integer.MAX_VALUE, false, few())));
        Files.write(dir.resolve("transactional.bin"),
                bytes(batch(CompressionType.NONE, create, 4_711, (short) 3, 0, true, few())));
        Files.write(dir.resolve("append-time.bin"),
                bytes(batch(CompressionType.NONE, TimestampType.LOG_APPEND_TIME, -1, (short) -1, -1, false, few())));
        Files.write(dir.resolve("commit-marker.bin"), bytes(MemoryRecords.withEndTransactionMarker(
                42, T0, 7, 4_711, (short) 3, new EndTransactionMarker(ControlRecordType.COMMIT, 5)).buffer()));
        byte[] plain = bytes(batch(CompressionType.NONE, create, -1, (short) -1, -1, false, many()));
        Files.write(dir.resolve("many-snappy-raw.body"),
                Snappy.compress(Arrays.copyOfRange(plain, DEFAULT_HEADER_BYTES, plain.length)));
    }

    static final int DEFAULT_HEADER_BYTES = 61;

    static void check(Path dir) throws Exception {
        for (CompressionType c : CompressionType.values()) {
            check(dir.resolve("few-" + c.name + ".bin"), c, few());
            check(dir.resolve("many-" + c.name + ".bin"), c, many());
        }
        Path control = dir.resolve("empty-control.bin");
        MutableRecordBatch batch = MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(control)))
                .batches().iterator().next();
        batch.ensureValid();
        require(batch.isControlBatch() && !batch.iterator().hasNext() && batch.nextOffset() == batch.baseOffset(), control);
    }

    static void check(Path file, CompressionType compression, Entry[] entries) throws Exception {
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file)));
        MutableRecordBatch batch = records.batches().iterator().next();
        batch.ensureValid();
        require(batch.sizeInBytes() == records.sizeInBytes() && batch.compressionType() == compression, file);
        Iterator<Record> read = batch.iterator();
        for (int i = 0; i < entries.length; i++) {
            Record r = read.next();
            Entry e = entries[i];
            require(r.offset() == i && r.timestamp() == e.timestamp && Arrays.equals(r.headers(), e.headers)
                    && same(r.key(), e.key) && same(r.value(), e.value), file);
        }
        require(!read.hasNext(), file);
        System.out.println(file.getFileName() + ": " + entries.length + " records");
    }

    static boolean same(ByteBuffer read, byte[] written) {
        return read == null || written == null ? (Object) read == written : read.equals(ByteBuffer.wrap(written));
    }

    static void require(boolean holds, Path file) {
        if (!holds) throw new AssertionError(file.toString());
    }

    public static void main(String[] args) throws Exception {
        Path dir = Path.of(args[1]);
        if (args[0].equals("write")) write(dir);
        else check(dir);
    }
}
