package spillway.test.hapi;

import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.provider.JpaSystemProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.HardcodedServerAddressStrategy;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import java.io.IOException;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;

/**
 * A HAPI FHIR JPA server on 127.0.0.1. System properties: {@code hapi.port} (0: any free one), {@code hapi.db} (folder of
 * the H2 file; empty: in memory), {@code hapi.export} (true: HAPI's own $export is on), {@code hapi.stdin} (true: ends
 * when its standard input does, so that it cannot outlive the test that started it). Prints one line, "ready URL", when
 * it answers. Ends cleanly on SIGTERM.
 */
public final class HapiServer {
  private static final int DEFAULT_PAGE = 20;
  private static final int MAX_PAGE = 1000;

  private HapiServer() {}

  public static void main(String[] args) throws Exception {
    Server jetty = new Server();
    ServerConnector connector = new ServerConnector(jetty);
    connector.setHost("127.0.0.1");
    connector.setPort(Integer.getInteger("hapi.port", 0));
    connector.open(); // binds now, so that the address is known before HAPI is told its own
    jetty.addConnector(connector);
    String base = "http://127.0.0.1:" + connector.getLocalPort() + "/fhir";

    AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext(HapiConfig.class);
    ServletContextHandler root = new ServletContextHandler("/");
    ServletHolder servlet = new ServletHolder(servlet(context, base));
    servlet.setInitOrder(1);
    root.addServlet(servlet, "/fhir/*");
    jetty.setHandler(root);
    jetty.start();

    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  try {
                    jetty.stop();
                  } catch (Exception e) {
                    System.err.println("jetty: " + e);
                  }
                  context.close();
                }));
    System.out.println("ready " + base);
    if (Boolean.getBoolean("hapi.stdin")) {
      endWithStandardInput();
    }
    jetty.join();
  }

  private static RestfulServer servlet(AnnotationConfigApplicationContext context, String base) {
    IFhirSystemDao<?, ?> system = context.getBean(IFhirSystemDao.class);
    RestfulServer s = new RestfulServer(system.getContext());
    s.registerProviders(context.getBean("myResourceProvidersR4", ResourceProviderFactory.class).createProviders());
    s.registerProvider(context.getBean(JpaSystemProvider.class));
    if (Boolean.getBoolean("hapi.export")) {
      s.registerProvider(context.getBean(BulkDataExportProvider.class));
    }
    JpaCapabilityStatementProvider statement =
        new JpaCapabilityStatementProvider(
            s,
            system,
            context.getBean(JpaStorageSettings.class),
            context.getBean(ISearchParamRegistry.class),
            context.getBean(IValidationSupport.class));
    statement.setImplementationDescription("HAPI FHIR R4 for the end-to-end tests");
    s.setServerConformanceProvider(statement);
    DatabaseBackedPagingProvider paging = context.getBean(DatabaseBackedPagingProvider.class);
    paging.setDefaultPageSize(DEFAULT_PAGE);
    paging.setMaximumPageSize(MAX_PAGE);
    s.setPagingProvider(paging);
    s.setDefaultResponseEncoding(EncodingEnum.JSON);
    s.setServerAddressStrategy(new HardcodedServerAddressStrategy(base));
    return s;
  }

  private static void endWithStandardInput() {
    Thread t =
        new Thread(
            () -> {
              try {
                while (System.in.read() >= 0) {}
              } catch (IOException e) {
                System.err.println("standard input: " + e);
              }
              System.exit(0);
            });
    t.setDaemon(true);
    t.start();
  }
}
