/** A linked list: built, turned round, searched, cut. */
public class Chain {
    static class Node {
        int value;
        Node next;

        Node(int value, Node next) {
            this.value = value;
            this.next = next;
        }
    }

    private Node first;
    private int size;

    void add(int value) {
        first = new Node(value, first);
        size++;
    }

    void reverse() {
        Node turned = null;
        while (first != null) {
            Node next = first.next;
            first.next = turned;
            turned = first;
            first = next;
        }
        first = turned;
    }

    boolean remove(int value) {
        Node before = null;
        for (Node node = first; node != null; before = node, node = node.next) {
            if (node.value == value) {
                if (before == null) {
                    first = node.next;
                } else {
                    before.next = node.next;
                }
                size--;
                return true;
            }
        }
        return false;
    }

    int sum() {
        int sum = 0;
        for (Node node = first; node != null; node = node.next) {
            sum += node.value;
        }
        return sum;
    }

    public String toString() {
        StringBuilder text = new StringBuilder("[");
        for (Node node = first; node != null; node = node.next) {
            text.append(node.value).append(node.next == null ? "" : " ");
        }
        return text.append(']').toString();
    }

    public static void main(String[] args) {
        Chain chain = new Chain();
        for (int i = 0; i < 12; i++) {
            chain.add(i * i);
        }
        System.out.println(chain + " size " + chain.size + " sum " + chain.sum());
        chain.reverse();
        System.out.println(chain);
        System.out.println(chain.remove(0) + " " + chain.remove(49) + " " + chain.remove(50) + " " + chain.remove(121));
        System.out.println(chain + " size " + chain.size);
        for (int round = 0; round < 40; round++) {
            chain.add(round);
            chain.reverse();
        }
        System.out.println(chain.sum() + " " + chain.first.value);
    }
}
