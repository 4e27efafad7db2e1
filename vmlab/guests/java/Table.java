/** A hash table with chains, which grows; keys are strings. */
public class Table {
    static class Entry {
        final String key;
        int value;
        Entry next;

        Entry(String key, int value, Entry next) {
            this.key = key;
            this.value = value;
            this.next = next;
        }
    }

    private Entry[] buckets = new Entry[4];
    private int size;

    private static int bucket(String key, int count) {
        return (key.hashCode() & 0x7fffffff) % count;
    }

    private void grow() {
        Entry[] old = buckets;
        buckets = new Entry[2 * old.length + 1];
        for (Entry entry : old) {
            while (entry != null) {
                Entry next = entry.next;
                int place = bucket(entry.key, buckets.length);
                entry.next = buckets[place];
                buckets[place] = entry;
                entry = next;
            }
        }
    }

    void add(String key, int amount) {
        int place = bucket(key, buckets.length);
        for (Entry entry = buckets[place]; entry != null; entry = entry.next) {
            if (entry.key.equals(key)) {
                entry.value += amount;
                return;
            }
        }
        buckets[place] = new Entry(key, amount, buckets[place]);
        if (++size > buckets.length) {
            grow();
        }
    }

    int get(String key) {
        for (Entry entry = buckets[bucket(key, buckets.length)]; entry != null; entry = entry.next) {
            if (entry.key.equals(key)) {
                return entry.value;
            }
        }
        return -1;
    }

    public static void main(String[] args) {
        String text = "the virtual machine monitor gives each guest the illusion that it owns the machine the monitor "
                + "itself runs on the machine and the guest runs on the monitor";
        Table table = new Table();
        int start = 0;
        for (int i = 0; i <= text.length(); i++) {
            if (i == text.length() || text.charAt(i) == ' ') {
                table.add(text.substring(start, i), 1);
                start = i + 1;
            }
        }
        String[] words = {"the", "machine", "monitor", "guest", "hypervisor"};
        for (String word : words) {
            System.out.println(word + " " + table.get(word));
        }
        for (int i = 0; i < 100; i++) {
            table.add("key" + i % 37, i);
        }
        System.out.println("size " + table.size + " buckets " + table.buckets.length + " key0 " + table.get("key0"));
    }
}
