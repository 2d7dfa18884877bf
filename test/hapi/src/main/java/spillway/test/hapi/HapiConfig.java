package spillway.test.hapi;

import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.binary.api.IBinaryStorageSvc;
import ca.uhn.fhir.jpa.binstore.MemoryBinaryStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import jakarta.persistence.EntityManagerFactory;
import java.util.Properties;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/** The beans of a HAPI FHIR JPA server for R4 on H2. The database's folder comes from the system property {@code hapi.db}. */
@Configuration
@Import({
  JpaR4Config.class,
  HapiJpaConfig.class,
  JpaBatch2Config.class,
  Batch2JobsConfig.class,
  ThreadPoolFactoryConfig.class,
  SubscriptionChannelConfig.class
})
public class HapiConfig {

  /** Everything at HAPI's defaults, except what native bulk export needs. */
  @Bean
  public JpaStorageSettings storageSettings() {
    JpaStorageSettings s = new JpaStorageSettings();
    s.setEnableTaskBulkExportJobExecution(Boolean.getBoolean("hapi.export"));
    return s;
  }

  @Bean
  public PartitionSettings partitionSettings() {
    return new PartitionSettings();
  }

  @Bean
  public SubscriptionSettings subscriptionSettings() {
    return new SubscriptionSettings();
  }

  /** An empty {@code hapi.db} means in memory. */
  @Bean(destroyMethod = "close")
  public BasicDataSource dataSource() {
    String dir = System.getProperty("hapi.db", "");
    BasicDataSource d = new BasicDataSource();
    d.setDriverClassName("org.h2.Driver");
    d.setUrl(dir.isEmpty() ? "jdbc:h2:mem:hapi;DB_CLOSE_DELAY=-1" : "jdbc:h2:file:" + dir + "/hapi");
    d.setUsername("sa");
    d.setPassword("");
    d.setMaxTotal(20);
    return d;
  }

  @Bean
  @Primary
  public LocalContainerEntityManagerFactoryBean entityManagerFactory(
      DataSource source,
      ConfigurableListableBeanFactory beans,
      FhirContext fhir,
      JpaStorageSettings settings) {
    LocalContainerEntityManagerFactoryBean f =
        HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, fhir, settings);
    f.setPersistenceUnitName("hapi");
    f.setDataSource(source);
    Properties p = new Properties();
    p.setProperty("hibernate.dialect", HapiFhirH2Dialect.class.getName());
    p.setProperty("hibernate.hbm2ddl.auto", "update");
    p.setProperty("hibernate.jdbc.batch_size", "20");
    p.setProperty("hibernate.cache.use_query_cache", "false");
    p.setProperty("hibernate.cache.use_second_level_cache", "false");
    p.setProperty("hibernate.search.enabled", "false");
    f.setJpaProperties(p);
    return f;
  }

  @Bean
  @Primary
  public JpaTransactionManager transactionManager(EntityManagerFactory factory) {
    return new JpaTransactionManager(factory);
  }

  /** Native bulk export writes its files as Binary resources. */
  @Bean
  public IBinaryStorageSvc binaryStorage() {
    return new MemoryBinaryStorageSvcImpl();
  }
}
